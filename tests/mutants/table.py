"""Small faults of the core, each with the test beside the code that has to notice it.

A fault that changes nothing that anyone could notice has no place here.
"""

from collections.abc import Iterator
from typing import NamedTuple


class Mutant(NamedTuple):
    """A change of a file: `text`, which stands there once, becomes `replacement`; of the `tests`,
    names as pytest takes them, one has to fail then."""

    file: str
    text: str
    replacement: str
    tests: tuple[str, ...]

    def __str__(self):
        change = f"{self.text!r} -> {self.replacement!r}"
        return f"{self.file}: {change}, unnoticed by {' '.join(self.tests)}"


def of(file: str, tests: str, *rows: tuple[str, str, str]) -> Iterator[Mutant]:
    """The mutants of a file of the package; each row holds text, replacement and the names of tests
    in the file `tests`."""
    for text, replacement, names in rows:
        ids = tuple(f"tests/{tests}::{name}" for name in names.split())
        yield Mutant(f"avdiff_jax/{file}", text, replacement, ids)


METRICS = of(
    "metrics.py", "test_metrics.py",
    ("100.0 * right, clips", "1.0 * right, clips", "test_per_class_accuracy_by_hand"),
    ("labels[predicted == labels]", "labels[predicted != labels]",
     "test_per_class_accuracy_by_hand"),
    ("accuracy if classes is None else accuracy[np.asarray(classes, bool)]", "accuracy",
     "test_mean_class_accuracy_weighs_classes_and_skips_absent_ones"),
    ("np.divide(2 * b * n, total", "np.divide(b * n, total", "test_harmonic_mean_by_hand"),
    ("- gamma * np.asarray(is_base", "+ gamma * np.asarray(is_base",
     "test_calibration_lowers_base_classes"),
    ("base_score = self.base_score - gamma", "base_score = self.base_score + gamma",
     "test_evaluate_by_hand"),
    ("(-point.HM, abs(point.gamma), point.gamma)", "(-point.HM, point.gamma)",
     "test_best_is_by_hm_then_nearest_no_calibration"),
    ("(-point.HM, abs(point.gamma)", "(point.HM, abs(point.gamma)",
     "test_best_is_by_hm_then_nearest_no_calibration"),
    ("* (b[1:] + b[:-1]) / 2)", "* b[1:])", "test_a_shared_breakpoint_is_a_coin_toss"),
    ("tied = gamma[hm == hm.max()]", "tied = gamma[hm >= 0]", "test_exact_gamma_beats_every_other"),
    ("np.where(np.arange(len(counts)) == label, 0, counts)", "counts", "test_class_table_by_hand"),
    ("float(np.std(values, ddof=1))", "float(np.std(values))", "test_aggregate_by_hand"),
    ('mean_of_hm, mean["HM"] = mean["HM"], float(harmonic_mean(mean["B"], mean["N"]))',
     'mean_of_hm = mean["HM"]', "test_aggregate_by_hand"),
    ("if not np.isfinite(gamma)", "if False", "test_other_refusals"),
    ("labels.max() < n_classes", "labels.max() <= n_classes",
     "test_what_cannot_be_scored_is_refused"),
)

PROBABILITIES = of(
    "probabilities.py", "test_probabilities.py",
    ("softmax(shifted / temperature, axis=1)", "softmax(shifted * temperature, axis=1)",
     "test_the_temperature_that_labels_were_drawn_with_is_found"),
    ("1 / np.bincount(labels, minlength=is_base.size)[labels]", "np.ones(labels.size)",
     "test_a_class_counts_the_same_for_the_temperature_however_many_clips_it_has"),
    ("claimed - (count * right + 1) / (count + 2))", "claimed - right)",
     "test_scores_that_never_err_may_err_on_the_next_clip"),
    ("(10 * best).astype(int), 9)", "(10 * best).astype(int), 8)", "test_reliability_by_hand"),
    ("clips[used] @ np.abs(accuracy - probability)", "clips[used] @ (accuracy - probability)",
     "test_reliability_by_hand"),
)

LOSSES = of(
    "losses.py", "test_losses.py",
    ("-jnp.take_along_axis", "jnp.take_along_axis", "test_cross_entropy_by_hand"),
    ("jnp.square(a - b).mean(-1)", "jnp.square(a - b).sum(-1)", "test_squared_error_by_hand"),
    ("anchor - x + 1e-6", "anchor - x", "test_triplet_by_hand"),
    ("distance(negative) + 1, 0)", "distance(negative) + 2, 0)", "test_triplet_by_hand"),
    ("distance(negative) + 1, 0)", "distance(negative) + 1, -9)", "test_triplet_by_hand"),
    ("labels[:, None] != labels[None, :]", "labels[:, None] == labels[None, :]",
     "test_negatives_never_share_the_label"),
    ("jax.random.uniform(key, other.shape), -1)", "jax.random.uniform(key, other.shape), 1)",
     "test_negatives_never_share_the_label"),
    ("jax.random.uniform(key, other.shape), -1)", "1, -1)", "test_negatives_never_share_the_label"),
    ("jnp.maximum(used.sum(), 1)", "used.sum()", "test_a_batch_of_one_class_has_no_negatives"),
    ("jnp.where(used, values, 0).sum()", "values.sum()", "test_mean_where_by_hand"),
)

DIFFUSION = of(
    "diffusion.py", "test_diffusion.py",
    ("beta = np.linspace(1e-4, 0.02, steps)\n", "beta = np.linspace(1e-4, 0.03, steps)\n",
     "test_linear_schedule"),
    ("* 1000 / steps, 0, 0.999)", "* 500 / steps, 0, 0.999)", "test_scaled_schedule_by_hand"),
    ("* 1000 / steps, 0, 0.999)", "* 1000 / steps, 0, 1)", "test_scaled_schedule_by_hand"),
    ("/ steps + 0.008)", "/ steps)", "test_cosine_schedule_by_hand"),
    ("/ 1.008 *", "*", "test_cosine_schedule_by_hand"),
    ("np.clip(1 - f[1:] / f[:-1], 0, 0.999)", "np.clip(1 - f[1:] / f[:-1], 0, 0.99)",
     "test_cosine_schedule_by_hand"),
    ("(root - root[-1]) * root[0]", "root * root[0]", "test_zero_terminal"),
    ("np.append(1.0, alpha_bar[:-1])", "np.append(alpha_bar[0], alpha_bar[:-1])",
     "test_zero_terminal"),
    ("jnp.sqrt(alpha_bar) * noise - jnp.sqrt(1 - alpha_bar) * x0",
     "jnp.sqrt(alpha_bar) * noise + jnp.sqrt(1 - alpha_bar) * x0", "test_targets_by_hand"),
    ("return (x - noise * said) / signal, said", "return x - noise * said, said",
     "test_targets_by_hand"),
    ("return said, (x - signal * said) / noise", "return said, x - signal * said",
     "test_targets_by_hand"),
    ("noise * x + signal * said", "noise * x - signal * said", "test_targets_by_hand"),
    ("jnp.sqrt(a) * x0 + jnp.sqrt(1 - a) * noise", "a * x0 + jnp.sqrt(1 - a) * noise",
     "test_noised"),
    ("(x - beta / jnp.sqrt(1 - alpha_bar) * eps) / jnp.sqrt(alpha)",
     "(x - beta * eps) / jnp.sqrt(alpha)", "test_reversed_step_by_hand"),
    ("mean + jnp.sqrt(beta) * noise", "mean + beta * noise", "test_reversed_step_by_hand"),
    ("jnp.sqrt(1 - alpha_bar_to) * eps", "jnp.sqrt(1 - alpha_bar) * eps",
     "test_few_steps_equal_a_loop"),
    ("of_x + t * self.w_t + self.constant", "of_x + self.w_t + self.constant",
     "test_split_first_layer_equals_concatenation"),
    ("self.first(nn.leaky_relu(joined, SLOPE))", "self.first(joined)", "test_predictor_by_hand"),
    ("scale[-1] = float(final_noise)", "scale[0] = float(final_noise)",
     "test_final_noise_is_the_only_difference"),
    ("np.arange(s.steps)[::-1]", "np.arange(s.steps)", "test_sampler_equals_a_loop"),
    ("np.append(s.alpha_bar[t], np.float32(1))", "np.append(s.alpha_bar[t], s.alpha_bar[0])",
     "test_few_steps_equal_a_loop"),
    ("np.linspace(s.steps - 1, 0, len(keys) + 1)", "np.linspace(s.steps - 2, 0, len(keys) + 1)",
     "test_few_steps_equal_a_loop"),
    ("squared_error(noise, predict(", "squared_error(x0, predict(", "test_noise_loss"),
)

SAMPLING = of(
    "sampling.py", "test_sampling.py",
    ("scale[-1] *= final_noise", "pass", "test_both_forms_agree[0.0-False]"),
    ("v = u * s.beta[t] / np.sqrt(1 - s.alpha_bar[t])", "v = u * s.beta[t]",
     "test_both_forms_agree[0.0-True]"),
    ("jnp.where(x >= 0, 1.0, SLOPE)", "jnp.where(x >= 0, 1.0, 0.0)",
     "test_both_forms_agree[0.0-True]"),
    ("u * g - v * of_x *", "u * g + v * of_x *", "test_both_forms_agree[0.0-True]"),
    ("of_hidden = jax.vmap(partial(dropout, rate=rate))(",
     "of_hidden = jax.vmap(partial(dropout, rate=0.0))(", "test_both_forms_agree[0.3-True]"),
)

MASKS = of(
    "nn/masks.py", "nn/test_masks.py",
    ("_table(*[(CLASS, t) for t in range(4)], *[(t, CLASS) for t in range(4)])",
     "_table(*[(CLASS, t) for t in range(4)])", "test_patterns"),
    ("_table((AUDIO, VIDEO), (VIDEO, AUDIO))", "_table((AUDIO, VIDEO))", "test_patterns"),
    ("class_pairs() | _table((AUDIO, AUDIO), (VIDEO, VIDEO))",
     "_table((AUDIO, AUDIO), (VIDEO, VIDEO))", "test_patterns"),
    ("self_pairs if i < switch else", "self_pairs if i <= switch else",
     "test_hybrid_switches_after_z_layers"),
    ("(self_pairs, all_pairs)[i % 2]", "(all_pairs, self_pairs)[i % 2]", "test_patterns"),
    ("0 <= switch <= depth", "0 <= switch", "test_nonsense_is_refused"),
    ("[None] & valid[:, None, :]", "[None] & valid[:, :, None]", "test_every_pair_of_tokens"),
    ("return valid[:, None, :]", "return jnp.ones_like(valid)[:, None, :]",
     "test_every_pair_of_tokens"),
)

ATTENTION = of(
    "nn/attention.py", "nn/test_layers.py",
    ("q.shape[-1] ** -0.5", "q.shape[-1] ** -1.0", "test_attention_numbers"),
    ("jnp.where(visible, 0.0, HIDDEN)", "jnp.where(visible, 0.0, -1.0)", "test_attention_numbers"),
    ("x[:, :queries] + attend(", "attend(", "test_a_block_adds_to_what_it_is_given"),
    ("return x + forward(", "return forward(", "test_a_block_adds_to_what_it_is_given"),
    ("asked = context[:, :queries]", "asked = context[:, -queries:] if queries else context",
     "test_a_block_adds_to_what_it_is_given"),
)
LAYERS = of(
    "nn/layers.py", "nn/test_layers.py",
    ("EPS = 1e-5", "EPS = 1e-2", "test_batchnorm_numbers"),
    ("lambda _, change: (sum_rows(change),)",
     "lambda _, change: (change.reshape(-1, shape[-1])[0],)",
     "test_repeated_rows_and_their_gradient"),
    ("return normed * repeat_rows(scale, x) + ", "return normed + ",
     "test_layernorm_numbers"),
    ("0.9 * running_mean.value + 0.1 * mean", "0.1 * running_mean.value + 0.9 * mean",
     "test_batchnorm_numbers"),
    ("var * count / jnp.maximum(count - 1, 1)", "var", "test_batchnorm_numbers"),
    ("weight = counted.astype(x.dtype)[..., None]", "weight = jnp.ones_like(x[..., :1])",
     "test_batchnorm_ignores_padding"),
    ("jnp.maximum(count - 1, 1)", "(count - 1)", "test_one_counted_row_and_none"),
    ("if not self.is_initializing():", "if True:", "test_batchnorm_starts_at_zero_and_one"),
    ("mean, var = running_mean.value, running_var.value", "mean, var = x.mean(0), x.var(0)",
     "test_batchnorm_evaluates_by_running_statistics"),
    ("x = nn.relu(BatchNorm(", "x = (BatchNorm(", "test_embedding_net_is_not_negative"),
    ("bound = 1 / math.sqrt(x.shape[-1])", "bound = 1 / x.shape[-1]",
     "test_linear_starts_like_pytorch"),
    ("jnp.where(valid[name][..., None], 0.0, padding[None])", "0.0",
     "test_padding_code_marks_padded_tokens_only"),
    ("x, y = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)", "pass", "test_products_in_bfloat16"),
)
DROPOUT = of(
    "nn/layers.py", "nn/test_dropout.py",
    ("x * (1 / (1 - rate)), 0.0)", "x, 0.0)", "test_dropout"),
    ("jnp.uint32(round(rate * 2**32))", "jnp.uint32(round(rate * 2**31))", "test_dropout"),
    ("x = x ^ first\n", "", "test_both_words_of_a_key_count"),
    ("x = x ^ (x >> 15) ^ second", "x = x ^ (x >> 15)", "test_both_words_of_a_key_count"),
)
POOLING = of(
    "nn/layers.py", "nn/test_pooling.py",
    ("total = (x * valid[..., None]).sum(1)", "total = x.sum(1)", "test_mean_over_time"),
    ("jnp.maximum(valid.sum(1), 1)[:, None]", "x.shape[1]", "test_mean_over_time"),
    ("keepdims=True), 1e-12)", "keepdims=True), 10)", "test_unit"),
    ("jnp.maximum(-(-(s + 1) * n // segments), first + 1)", "-(-(s + 1) * n // segments) - 1",
     "test_segment_means"),
    ("first = s * n // segments", "first = s * n // segments + 1", "test_segment_means"),
    ("n = valid.sum(1)[:, None]", "n = jnp.full((len(x), 1), x.shape[1])",
     "test_segments_ignore_padding"),
)

FILM = of(
    "nn/film.py", "nn/test_film.py",
    ("np.geomspace(1, 100, FREQUENCIES)", "np.linspace(1, 100, FREQUENCIES)",
     "test_time_code_by_hand"),
    ("[jnp.sin(phase), jnp.cos(phase)]", "[jnp.cos(phase), jnp.sin(phase)]",
     "test_time_code_by_hand"),
    ("normed * (1 + scale) + shift", "normed * scale + shift", "test_by_hand"),
    ("h = h + Linear(", "h = Linear(", "test_by_hand"),
    ("kernel_init=zeros, ", "", "test_it_starts_at_zero"),
)

TRUNK = of(
    "nn/trunk.py", "nn/test_trunk.py",
    ("longest = valid.sum(1).max()", "longest = valid.shape[1]",
     "test_batchnorm_counts_valid_tokens_or_all_up_to_the_longest_clip"),
    ('if padding == "masked"', 'if padding == "batch"',
     "test_batchnorm_counts_valid_tokens_or_all_up_to_the_longest_clip"),
    (' - buffers["audio_shift"][None, None]', "", "test_scaling_by_hand"),
    (' * batch.audio_mask[..., None]', "", "test_scaling_by_hand"),
    ('{"time": 1, "feature": 2}', '{"time": 2, "feature": 1}', "test_scaling_by_hand"),
    ("jnp.maximum(norm, 1e-12)", "norm", "test_a_feature_that_is_always_zero_stays_zero"),
)

STEP = of(
    "train/step.py", "train/test_step.py",
    ("state, batch, k, role)\n", "state, batch, k, roles[-1])\n",
     "test_base_clips_and_then_novel_ones_each_in_their_role"),
    ("roles = ROLES[:substage]", "roles = ROLES[:substage][::-1]",
     "test_base_clips_and_then_novel_ones_each_in_their_role"),
    ("roles = ROLES[:substage]", "roles = ROLES", "test_substage_1_sees_base_clips_alone"),
    ("inputs[role], lengths)", "inputs[roles[0]], lengths)",
     "test_base_clips_and_then_novel_ones_each_in_their_role"),
    ("k = jax.random.fold_in(key, state.updates)", "k = key",
     "test_each_update_has_a_key_of_its_own_by_its_number"),
    ("in_axes=(0, 0, None, 0)", "in_axes=(0, 0, None, None)",
     "test_draws_side_by_side_have_batches_and_keys_of_their_own"),
    ("value[:, i]", "value[:, 0]",
     "test_draws_side_by_side_have_batches_and_keys_of_their_own"),
)

SETTING = of(
    "train/setting.py", "train/test_setting.py",
    ("[config.seed, phase.stage,", "[0, phase.stage,",
     "test_the_order_of_clips_depends_on_the_whole_place"),
    ("phase.stage, phase.substage, phase.draw, epoch, i]",
     "phase.substage, phase.draw, epoch, i]", "test_the_order_of_clips_depends_on_the_whole_place"),
    ("phase.substage, phase.draw, epoch, i]", "phase.draw, epoch, i]",
     "test_the_order_of_clips_depends_on_the_whole_place"),
    ("phase.draw, epoch, i]", "epoch, i]", "test_the_order_of_clips_depends_on_the_whole_place"),
    ("phase.draw, epoch, i]", "phase.draw, i]",
     "test_the_order_of_clips_depends_on_the_whole_place"),
    ("phase.draw, epoch, i]", "phase.draw, epoch]",
     "test_the_order_of_clips_depends_on_the_whole_place"),
    ("members[i], setting.lengths", "members[0], setting.lengths",
     "test_the_order_of_clips_depends_on_the_whole_place"),
    ("ROLES[: setting.phase.substage]", "ROLES", "test_substage_1_plans_base_clips_alone"),
    ("np.stack(x, axis=1) if stack", "np.stack(x[:1] * len(x), axis=1) if stack",
     "test_draws_side_by_side_have_the_plans_that_they_have_alone"),
    ("x[first : first + steps]", "x[:steps]", "test_a_dispatch_takes_its_steps_of_each_plan"),
)
KEYS = of(
    "train/setting.py", "train/test_substage.py",
    ("phase[:3])", "phase[:2] + (0,))", "test_random_numbers_differ_between_phases"),
    ("phase[:3])", "phase[1:3])", "test_random_numbers_differ_between_phases"),
)

STAGE = of(
    "train/stage.py", "train/test_stage.py",
    ("stage.novel[draw])[: phase", "stage.novel[0])[: phase",
     "test_each_draw_is_trained_on_its_own_shots"),
    ("[: phase.substage] for draw", "for draw", "test_each_draw_is_trained_on_its_own_shots"),
    ("base, info = context.stage.eval_base,", "base, info = context.stage.base,",
     "test_epochs_gamma_and_temperature_are_chosen_on_val"),
    ("concat_members(stage.eval_base, stage.eval_novel[0])",
     "concat_members(stage.base, stage.novel[0])",
     "test_epochs_gamma_and_temperature_are_chosen_on_val"),
    ("batch_members(context, base, test=False)", "batch_members(context, base, test=True)",
     "test_epochs_gamma_and_temperature_are_chosen_on_val"),
    ("batch_members(context, self.members, test=False)",
     "batch_members(context, self.members, test=True)",
     "test_epochs_gamma_and_temperature_are_chosen_on_val"),
    ('calibration == "exact"', 'calibration != "exact"', "test_calibration"),
    ("Schedule(one.epochs, replay=one.cuts)", "Schedule(one.epochs)",
     "test_stage_2_replays_the_record"),
    ("Schedule(two.epochs, replay=two.cuts)", "Schedule(one.epochs, replay=two.cuts)",
     "test_stage_2_replays_the_record"),
    ("phase, base.best, base.state)", "phase, variables, base.state)",
     "test_stage_2_replays_the_record"),
    ("of_trial, phase, first.best, first.state", "of_trial, phase, first.state.vars, first.state",
     "test_stage_1_goes_on_from_the_best_epoch"),
)
CONTEXT = of(
    "train/context.py", "train/test_stage.py",
    ("jax.random.fold_in(jax.random.key(context.info.config.seed), context.number)",
     "jax.random.key(context.info.config.seed)", "test_each_stage_has_a_first_key_of_its_own"),
    ("members, Limits(*context.lengths))", "members, Limits(0, 0))",
     "test_training_clips_are_fused_as_long_as_they_are_trained_on"),
    ("np.full(audio.dim, 1 / 255)", "np.full(audio.dim, 1.0)", "test_audio_scaling"),
    ("square / max(count, 1) - mean**2, 0)", "square / max(count, 1), 0)", "test_audio_scaling"),
)
SCORING = of(
    "train/scoring.py", "train/test_stage.py",
    ("        if test\n", "        if not test\n", "test_val_and_test_have_limits_of_their_own"),
    ("<= SHORT_TOKENS", "<= 0", "test_scores_do_not_depend_on_order_or_bucket"),
    ("batch *= GPU_BATCHES", "pass", "test_scores_do_not_depend_on_order_or_bucket"),
)
AHEAD = of(
    "train/ahead.py", "train/test_ahead.py",
    ("compiled[phase[:2]].wait()", "pass", "test_it_waits_for_the_steps_that_are_needed"),
    ("if not checkpoints.exist(later):", "if True:",
     "test_a_first_substage_is_left_out_where_the_second_has_begun"),
    ("if is_open or not context", "if not context", "test_only_steps_that_are_known_by_then"),
    ("        for event in compiled.values():\n            event.set()\n", "",
     "test_an_error_ends_it_and_no_one_waits"),
)

SUBSTAGE = of(
    "train/substage.py", "train/test_substage.py",
    ("means = {name: value / batches", "means = {name: value / self.dispatch_steps",
     "test_an_epoch_is_told_as_the_mean_of_its_updates"),
    ("before[name] + float(values.sum())", "float(values.sum())",
     "test_an_epoch_is_told_as_the_mean_of_its_updates"),
    ("epoch=epoch, step=0, sums=None,", "epoch=epoch, step=0,",
     "test_an_epoch_is_told_as_the_mean_of_its_updates"),
    ("copy_tree(self.state) if ends else None", "self.state if ends else None",
     "test_first_of_equal_epochs_is_kept_and_the_rate_is_cut"),
    ('measured["score"] > best["score"]', 'measured["score"] >= best["score"]',
     "test_first_of_equal_epochs_is_kept_and_the_rate_is_cut"),
    ("cut = epoch in self.schedule.replay", "cut = False", "test_cuts_are_replayed"),
    ("if self.config.plateau:", "if True:", "test_no_plateau"),
    ("reference + abs(reference) * THRESHOLD", "reference", "test_plateau_rule"),
    ("cut = stalled > patience", "cut = stalled >= patience", "test_plateau_rule"),
    ("stalled=0 if cut else stalled", "stalled=stalled", "test_plateau_rule"),
    ("plateau=score, stalled=0), False", "plateau=score), False", "test_plateau_rule"),
    ("np.flatnonzero(~np.isfinite(values))", "np.flatnonzero(np.isnan(values))",
     "test_not_finite_names_the_place"),
    ("{first_step + int(first) + 1}:", "{int(first) + 1}:", "test_not_finite_names_the_place"),
)
OPTIMISERS = of(
    "train/optimisers.py", "train/test_substage.py",
    ("._replace(hyperparams=state.hyperparams)", "", "test_a_fresh_scheduler_has_the_full_rate"),
)
BEGINNING = of(
    "train/stage.py", "train/test_substage.py",
    ("not context.info.config.train.reset_optimizer and before", "before",
     "test_moments_of_adam"),
)
CURVES = of(
    "train/optimisers.py", "test_golden.py",
    ("optax.adam(learning_rate, *player.betas, eps=1e-8)",
     "optax.adam(learning_rate, *player.betas, eps=1e-4)", "test_three_adam_steps"),
    ("optax.add_decayed_weights(player.decay)", "optax.add_decayed_weights(0.1)",
     "test_three_adam_steps"),
)
DRAWS = of(
    "train/draws.py", "train/test_draws.py",
    ("for phases in (together, apart)", "for phases in ()", "test_a_run_goes_on_as_it_began"),
    ("if context.uses_cache(2):", "if False:", "test_who_decides"),
    ("return trains and not on_cpu and", "return trains and", "test_who_decides"),
)
SAVES = of(
    "train/saves.py", "train/test_saves.py",
    ("if best is not None:", "if False:", "test_what_is_saved_is_restored"),
    ("                self._best.save(record.best_epoch, best, chosen)\n"
     "            self._last.save(number, state, record.to_json())\n",
     "            self._last.save(number, state, record.to_json())\n"
     "            if best is not None:\n"
     "                self._best.save(record.best_epoch, best, chosen)\n",
     "test_training_does_not_wait_and_the_best_comes_first"),
    ("            if before:\n                before.result()\n", "",
     "test_what_follows_a_save_is_written_after_it_or_not_at_all"),
    ("kind in (None, Stopped)", "kind is None",
     "test_a_run_that_ends_or_is_stopped_waits_for_its_saves"),
    ("self._saves.then(self._opened.close)", "self._saves.begin(self._opened.close)",
     "test_a_run_that_ends_or_is_stopped_waits_for_its_saves"),
    ("if jax.process_count() > 1:", "if False:", "test_of_several_processes_each_saves_at_once"),
)
CACHE = of(
    "train/feature_cache.py", "train/test_feature_cache.py",
    ("scorer.info.config.train.crops, 1)", "1, 1)", "test_a_row_for_each_window"),
    ("(number + 0.5) / windows[rows]", "number / windows[rows]",
     "test_a_row_for_each_window"),
    ("np.cumsum(windows[clips]) - windows[clips]", "np.cumsum(windows[clips])",
     "test_a_row_for_each_window"),
    ("row = self.first[clips] + np.floor(position * self.windows[clips]).astype(np.int64)",
     "row = self.first[clips]", "test_plans_name_the_clips_that_training_draws"),
)

AVDIFF = of(
    "methods/avdiff.py", "methods/test_avdiff.py",
    ("batch.label.shape, 0, s.steps)", "batch.label.shape, 0, s.steps - 1)",
     "test_every_step_of_the_diffusion_is_trained"),
    ("batch.label.shape, 0, s.steps)", "batch.label.shape, 1, s.steps)",
     "test_every_step_of_the_diffusion_is_trained"),
    ('w = variables.buffers["condition"][batch.label]',
     'w = variables.buffers["condition"][0 * batch.label]',
     "test_every_step_of_the_diffusion_is_trained"),
    ("jax.random.normal(k_noise, c_o.shape)", "jax.random.uniform(k_noise, c_o.shape)",
     "test_every_step_of_the_diffusion_is_trained"),
    ("and not config.diffusion.sampler_gradient:", "and False:",
     "test_synthetic_features_teach_the_generator_where_asked_to"),
    ("and not config.diffusion.sampler_gradient:", "or True:",
     "test_synthetic_features_teach_the_generator_where_asked_to"),
    ('and role == "novel"', "", "test_synthetic_features_teach_the_generator_where_asked_to"),
    ('total = total + metrics["ce_synthetic"]', 'total = total + 2 * metrics["ce_synthetic"]',
     "test_synthetic_features_teach_the_generator_where_asked_to"),
    ("batch.label, k_sample, True, draws)", "batch.label, k_sample, False, draws)",
     "test_synthetic_features_teach_the_generator_where_asked_to"),
    ("rate = config.dropout if train else 0.0", "rate = config.dropout",
     "test_dropout_runs_in_training_alone"),
    ("rate = config.dropout if train else 0.0", "rate = 0.0",
     "test_dropout_runs_in_training_alone"),
)
GAN = of(
    "methods/shared/gan.py", "methods/test_losses_and_players.py",
    ("mix[:, None] * real + (1 - mix[:, None]) * fake", "real",
     "test_gradient_penalty_against_finite_differences"),
    ("sum(-1) + 1e-12) - 1)", "sum(-1) + 1e-12))", "test_gradient_penalty_is_zero_at_unit_slope"),
    ("PENALTY = 10.0", "PENALTY = 1.0", "test_critic_loss_by_hand"),
    ("return critic(fake) - critic(real)", "return critic(real) - critic(fake)",
     "test_critic_loss_by_hand"),
    ("jnp.square(mean) - 1 - log_variance", "jnp.square(mean) - log_variance", "test_kl_by_hand"),
    ("jnp.maximum(cosine, 0))", "cosine)", "test_cosine_embedding_by_hand"),
    ("RELU, LEAKY, LINEAR = 0.0, 0.2, 1.0", "RELU, LEAKY, LINEAR = 0.0, 0.1, 1.0",
     "test_layers_of_a_gan"),
)
PROTOTYPES = of(
    "methods/shared/prototypes.py", "methods/test_losses_and_players.py",
    (".T * batch.weight[None]", ".T", "test_class_averages"),
    ("max(count.sum() - (count > 0).sum(), 1)", "max(count.sum(), 1)", "test_class_averages"),
)
GAUSSIAN = of(
    "methods/shared/gaussian_head.py", "methods/test_gaussian_head.py",
    ("BASE_SHARE = 0.7", "BASE_SHARE = 0.5", "test_equals_the_definition"),
    ("SHRINKAGE = 0.1", "SHRINKAGE = 0.2", "test_equals_the_definition"),
    ("base * (novel_trace / base_trace)", "base", "test_by_hand"),
    ("max(len(residual) - classes, 1)", "len(residual)", "test_by_hand"),
    ("weights, -0.5 * np.einsum", "weights, np.einsum", "test_by_hand"),
    ("used = (rows != 0).any(0)", "used = (rows == rows).any(0)",
     "test_a_dimension_without_anything_is_as_good_as_absent"),
    ("return np.eye(d)", "return np.zeros((d, d))",
     "test_without_any_spread_it_is_the_nearest_mean"),
)
TEXT_DIFFUSION = of(
    "methods/shared/text_diffusion.py", "methods/test_text_diffusion.py",
    ("text - text[info.is_base].mean(0, keepdims=True)", "text - text.mean(0, keepdims=True)",
     "test_text_is_centred_on_base_classes"),
    ("(centered[info.is_base].std() or 1.0)", "centered.std()",
     "test_text_is_centred_on_base_classes"),
    ("TRACKED = 0.1", "TRACKED = 0.2", "test_tracking_follows_the_classes_of_a_batch"),
    ("jnp.where(count > 0, one_hot", "jnp.where(count >= 0, one_hot",
     "test_tracking_follows_the_classes_of_a_batch"),
    ("updates / (10 + updates)", "updates / (1 + updates)",
     "test_the_average_of_the_weights_is_that_of_all_updates_at_first"),
    ("max(len(labels) - len(np.unique(labels)), 1)", "len(labels)",
     "test_tracking_starts_at_the_statistics_of_all_clips"),
    ("(known * mean).sum(0, keepdims=True) / count", "mean.mean(0, keepdims=True)",
     "test_classes_without_clips_do_not_shift_what_is_standardised"),
)
OTHER_METHODS = [
    *of("methods/tsl.py", "methods/test_losses_and_players.py",
        ("nn.softmax(classify(info, variables, x)).mean(1)",
         "nn.softmax(classify(info, variables, x).mean(1))",
         "test_tsl_score_of_identical_segments"),
        ("jnp.where(batch.audio_mask[:, None], gap, jnp.inf)", "gap",
         "test_tsl_pairs_tokens_by_time")),
    *of("methods/sldg.py", "methods/test_losses_and_players.py",
        ("-0.5 * jnp.square(distance), HIDDEN)", "-jnp.square(distance), HIDDEN)",
         "test_sldg_bumps"),
        ("jnp.maximum(valid.sum(1), 1)[:, None]", "valid.shape[1]", "test_sldg_bumps"),
        ("np.log(np.expm1(1 / BUMPS))", "1 / BUMPS", "test_sldg_starts_evenly_spread")),
    *of("methods/avca.py", "methods/test_losses_and_players.py",
        ("space[n][other])", "space[n])", "test_avca_losses_by_hand"),
        ('("text", "audio", "text"), ("text", "video", "text"),\n', "\n",
         "test_avca_losses_by_hand")),
    *of("methods/tcaf.py", "methods/test_losses_and_players.py",
        ('attention="cross"', 'attention="full"', "test_tcaf_attends_across_modalities_only"),
        ("return -jnp.linalg.norm(", "return jnp.linalg.norm(",
         "test_tcaf_predicts_the_nearest_text")),
    *of("methods/linear.py", "methods/test_losses_and_players.py",
        ("STRENGTH / 2 * jnp.square(w)", "STRENGTH * jnp.square(w)",
         "test_linear_is_at_its_optimum"),
        ("(n / (classes * np.bincount(labels)))[labels]", "np.ones(n)",
         "test_linear_is_at_its_optimum"),
        ("logits, HIDDEN)), NEVER)", "logits, HIDDEN)), 0.0)",
         "test_linear_never_predicts_a_class_without_clips")),
    *of("methods/hip.py", "methods/test_tokens.py",
        ("[None] & alive[:, None]", "[None] & jnp.ones_like(alive)[:, None]",
         "test_hip_merges_neighbours_and_leaves_empty_groups_out")),
]

SAMPLES = of(
    "data/splits/sampling.py", "data/splits/test_sampling.py",
    ('f"shots {number} {name}"', 'f"shots {number}"',
     "test_the_shots_of_a_class_depend_on_seed_draw_and_name"),
    ('f"shots {number} {name}"', 'f"shots {name}"',
     "test_the_shots_of_a_class_depend_on_seed_draw_and_name"),
    ('f"{purpose} {name}")[:', 'f"{purpose}")[:',
     "test_a_share_depends_on_seed_purpose_and_name"),
    ('f"{purpose} {name}")[:', 'f"{name}")[:', "test_a_share_depends_on_seed_purpose_and_name"),
    ("max(1, round(share * len(ids)))", "round(share * len(ids))",
     "test_a_share_is_at_least_one_clip_and_leaves_the_others"),
    ("    ids = sorted(ids)\n", "", "test_the_shots_of_a_class_depend_on_seed_draw_and_name"),
    ("default_rng([seed, ", "default_rng([0, ",
     "test_the_shots_of_a_class_depend_on_seed_draw_and_name"),
)
DEALING = of(
    "data/splits/dealing.py", "data/splits/test_dealing.py",
    ('rng(seed, "groups 0")', 'rng(0, "groups 0")', "test_the_seed_decides_who_goes_where"),
    ("< needs[0].clips", "<= needs[0].clips",
     "test_a_way_is_found_wherever_there_is_one[30]"),
    ("if len(sizes) < len(needs):", "if len(sizes) < len(needs) - 1:",
     "test_a_class_that_can_never_have_enough_is_named"),
    ("others = len(needs) - 1", "others = len(needs)",
     "test_a_way_is_found_wherever_there_is_one[30]"),
    ("added * (2 * gap + added)", "added * (added - 2 * gap)", "test_many_classes_of_few_groups"),
    ('Need(("train", "val"), shots)', 'Need(("train",), shots)',
     "test_a_class_that_can_never_have_enough_is_named"),
)
FROM_STORE = of(
    "data/splits/from_store.py", "data/splits/test_from_store.py",
    ("request.val + request.test), request.val, request.test",
     "request.val + request.test), request.test, request.val",
     "test_validation_and_test_have_their_own_shares"),
    ('"base1", "novel1"), request.test, seed, "test")',
     '"base1", "novel1"), request.val, seed, "test")',
     "test_validation_and_test_have_their_own_shares"),
    ('"base1"), request.val, seed, "validation")', '"base1"), request.test, seed, "validation")',
     "test_validation_and_test_have_their_own_shares"),
    ('on(("train", "val"), "novel2")', 'on(("train",), "novel2")',
     "test_shots_of_stage_2_come_from_training_and_validation_groups"),
    ('"val_novel": on(("val",), "novel1")', '"val_novel": on(("val", "train"), "novel1")',
     "test_no_group_is_evaluated_that_was_trained_on"),
    ('or f"clip {clip}"', 'or "none"', "test_clips_without_a_group_are_groups_of_their_own"),
    ("round((running + wish) * total) - round(running * total)", "round(wish * total)",
     "test_classes_by_count_fraction_and_list"),
    ("min(val, test) > 0 and val + test < 1", "min(val, test) > 0",
     "test_requests_that_do_not_fit_are_refused"),
)
AUDIT = of(
    "data/splits/audit.py", "data/splits/test_audit.py",
    ("if both := unique[left.label] & unique[right.label]:",
     "if (both := unique[left.label] & unique[right.label]) and left.draw is None:",
     "test_an_edited_file_cannot_leak_clips"),
    ('if split["by"] == "group":', "if False:",
     "test_a_group_on_both_sides_is_refused_by_group_and_reported_otherwise"),
    ('f"train2_novel[{d}]"),', '"train2_novel[0]"),', "test_groups_are_audited_draw_by_draw"),
    ("if not count and not (", "if False and not (", "test_finish_audits"),
)
STAGES = of(
    "data/splits/stages.py", "data/splits/test_stages.py",
    ("[sets[key] for key in STAGE_1], sets", "[sets[key] for key in STAGE_1[:2]], sets",
     "test_stages_are_the_sets"),
    ("is_base=np.isin(names, base_names)", "is_base=~np.isin(names, base_names)",
     "test_stages_are_the_sets"),
    ("names = tuple(sorted((*base_names, *novel_names)))",
     "names = tuple((*base_names, *novel_names))", "test_stages_are_the_sets"),
    ('order = rng(seed, "shuffled labels").permutation(members.labels.size)',
     "order = np.arange(members.labels.size)", "test_shuffled_labels_are_a_permutation"),
)
WINDOWS = of(
    "data/windows.py", "data/test_windows.py",
    ("start = spare_video // 2", "start = 0 * spare_video",
     "test_audio_is_cut_to_the_time_span_of_the_video"),
    ("position * (spare_video + 1)", "position * spare_video",
     "test_windows_lie_inside_their_clips"),
    ("np.rint(start * video.seconds / audio.seconds)", "np.rint(start)",
     "test_audio_is_cut_to_the_time_span_of_the_video"),
    ("np.minimum(same, spare_audio)", "same", "test_windows_lie_inside_their_clips"),
    ("audio or round(video * ratio)", "audio", "test_limits"),
    ("video or round(audio / ratio)", "video", "test_limits"),
    ("rng.random(shape) * count[chosen]", "rng.random(shape) * count.min()",
     "test_classes_are_balanced"),
    ("chosen = rng.integers(len(first), size=shape)",
     "chosen = np.searchsorted(first, rng.integers(len(labels), size=shape), 'right') - 1",
     "test_classes_are_balanced"),
    ("rng = np.random.default_rng(seed)", "rng = np.random.default_rng(seed[:-1])",
     "test_plans_are_a_function_of_the_seed"),
    ("weight = (rows >= 0)", "weight = (rows >= -1)", "test_buckets_hold_every_clip_once"),
)
FEED = of(
    "data/feed.py", "data/test_feed.py",
    ("jnp.where(mask[..., None], rows, 0), mask", "rows, mask", "test_gathered_equals_filled"),
    ("row[n:] = 0", "row[n:] = 1", "test_filling_does_not_depend_on_the_number_of_readers"),
    ("dtype=jnp.float32) * s, m.shape", "dtype=jnp.float32), m.shape",
     "test_gathered_equals_filled"),
    ("STREAM_BYTES // max(1, row * batch)", "STREAM_BYTES // max(1, row)",
     "test_streamed_dispatches_fit_their_memory"),
    ("if len(waiting) > ahead:", "if len(waiting) > ahead + 2:",
     "test_prefetched_runs_no_further_ahead_than_it_says"),
    ("len(values) - rows]", "len(values) - rows - 1]", "test_values_travel_in_parts"),
)
STREAM = of(
    "data/stream.py", "inference/test_model.py",
    ("power * 3 // 4 >= count", "power * 3 // 4 > count", "test_rungs"),
    ("1 << max(count - 1, 0).bit_length()", "1 << count.bit_length()", "test_rungs"),
)
GATE = of(
    "data/rates.py", "data/test_admission.py",
    ("TOLERANCE = 1e-3", "TOLERANCE = 1e-5", "test_rates"),
    ("len(values) * seconds / wanted - TOLERANCE", "len(values) * wanted / seconds - TOLERANCE",
     "test_resampling_by_hand"),
    ("(edges - before)[:, None] * here", "0 * here", "test_resampling_by_hand"),
)
VALUES = of(
    "data/values.py", "data/test_admission.py",
    ("GROSS_SCALE, NOTED_SCALE = 8.0, 3.0", "GROSS_SCALE, NOTED_SCALE = 80.0, 3.0",
     "test_another_scale_is_refused"),
    ("ours.deviation / usual.deviation or 1.0", "ours.deviation / usual.deviation",
     "test_odd_clips_among_usual_ones_pass"),
    ("self._square / self.count - mean**2", "self._square / self.count",
     "test_a_tally_is_that_of_all_values_at_once"),
)
KNOWN = of(
    "data/training_set.py", "data/test_training_set.py",
    ("np.isin(source.prints[rows], trained_on.prints)", "np.zeros(len(rows), bool)",
     "test_what_a_clip_holds_decides_and_not_its_name"),
    ("np.isin(source.groups[rows], trained_on.groups) & ~seen", "np.zeros(len(rows), bool)",
     "test_a_group_that_was_trained_on_is_left_out"),
)
PRINTS = of(
    "data/fingerprints.py", "data/test_training_set.py",
    ("        digest.update(str(values.shape).encode())\n", "", "test_another_clip_is_another"),
    ("values.astype(np.float16) if fits else values", "values.astype(np.float16)",
     "test_another_clip_is_another"),
    ("if values.dtype == np.uint8:\n        return values.astype(np.float16)",
     "if values.dtype == np.uint8:\n        return values",
     "test_a_clip_is_the_same_in_every_type"),
)
LATENTS = of(
    "nn/latents.py", "methods/test_tokens.py",
    ("jnp.where(visible.any(-1, keepdims=True), read, 0.0)", "read",
     "test_a_latent_that_sees_nothing_reads_nothing"),
)
WEIGHTS = of(
    "inference/pytorch_weights.py", "inference/test_pytorch_weights.py",
    ("if array.ndim == 3 else array).T", "if array.ndim == 3 else array)",
     "test_converted_written_read_and_scored"),
    ('(("query", "to_q"), ("key", "to_k"),', '(("query", "to_k"), ("key", "to_q"),',
     "test_converted_written_read_and_scored"),
    ('f"{theirs}.fc.{norm}.running_mean"', 'f"{theirs}.fc.{norm}.running_var"',
     "test_every_weight_counts"),
    ("if missing or left:", "if missing:", "test_weights_that_do_not_fit"),
)
MODEL = of(
    "inference/model.py", "inference/test_model.py",
    ("metrics.calibrated(part, self.info.is_base, self.gamma)",
     "metrics.calibrated(part, self.info.is_base, self.gamma + 1)",
     "test_scores_are_those_of_the_run"),
    ('np.argsort(-calibrated, axis=1, kind="stable")', 'np.argsort(calibrated, axis=1)',
     "test_scores_are_those_of_the_run"),
)
TORCH = of(
    "io/torch_file.py", "io/test_torch_file.py",
    ("if members[name].compress_type != zipfile.ZIP_STORED:", "if False:",
     "test_unusual_archives"),
    ('read("byteorder") != b"little"', 'read("byteorder") == b""', "test_unusual_archives"),
)

ENSEMBLE = of(
    "results/ensemble.py", "results/test_ensemble.py",
    ("gamma = float(np.mean([run.draws[draw]", "gamma = 0.0 * float(np.mean([run.draws[draw]",
     "test_averaged_scores_right_what_either_seed_takes_for_another"),
    ("mean = np.mean(scores, axis=0)", "mean = scores[0]",
     "test_averaged_scores_right_what_either_seed_takes_for_another"),
    ('- {"seed"}', '- {"seed", "model.depth"}', "test_runs_that_cannot_be_averaged"),
    ("if len(members) > 1]", "]", "test_a_seed_that_is_alone_is_left_out"),
    ("run.config[\"shots\"], run.place[0])", "run.config[\"shots\"], 0)",
     "test_averaged_scores_right_what_either_seed_takes_for_another"),
)

FILES = of(
    "io/files.py", "io/test_files.py",
    ("target = os.path.realpath(path)", "target = os.path.abspath(path)",
     "test_a_link_stays_and_its_target_is_replaced"),
    ("            with contextlib.suppress(OSError):\n                os.rmdir(folder)",
     "            pass", "test_missing_folders_are_made_and_unmade"),
    ("any(_is_same(path, source) for source in inputs)", "path in inputs",
     "test_what_no_flag_allows"),
    ("for folder in (real, *real.parents)", "for folder in real.parents",
     "test_what_no_flag_allows"),
    ("for folder in (real, *real.parents)", "for folder in (real, real.parent)",
     "test_what_no_flag_allows"),
    ("if not overwrite and os.path.lexists(path)", "if not overwrite and os.path.exists(path)",
     "test_what_exists_needs_a_flag"),
    ("if all((folder / name)", "if any((folder / name)", "test_what_exists_needs_a_flag"),
)
DOCUMENTS = of(
    "io/documents.py", "io/test_documents.py",
    ("and not isinstance(value, bool)", "", "test_types"),
    ("-LARGEST < value < LARGEST", "value < LARGEST or value >= LARGEST", "test_types"),
    ("absent = sorted(kind.__required_keys__ - value.keys())", "absent = []", "test_types"),
    ("None if self.schema else 1)", "1)", "test_what_cannot_be_read_is_a_sentence"),
    ("and not math.isfinite(value)", "and False", "test_only_finite_numbers_are_written"),
    ("(ValueError, RecursionError)", "ValueError", "test_what_cannot_be_read_is_a_sentence"),
)
PICKLES = of(
    "io/safe_pickle.py", "io/test_safe_pickle.py",
    ("        if dotted not in self._known:\n            raise _Refused(dotted)\n",
     "        if dotted not in self._known:\n            return super().find_class(module, name)\n",
     "test_hostile_pickles_run_nothing"),
    ('order="F" if _text(order) == "F" else "C"', 'order="C"', "test_plain_data_comes_through"),
    ("if depth > 20:", "if depth > 2000:", "test_broken_pickles_are_one_sentence"),
)
RESIDUALS = of(
    "methods/shared/residuals.py", "methods/test_residuals.py",
    ("(features - means[labels])[info.is_base[labels]]", "features - means[labels]",
     "test_residuals_by_hand"),
    ("(features - means[labels])", "features", "test_residuals_by_hand"),
    ("np.tile(rows, turns)[:KEPT]", "np.sort(np.tile(rows, turns))[:KEPT]",
     "test_residuals_by_hand"),
    ("+ SCALE * draw", "+ draw", "test_transferred_features"),
    ('buffers["class_means"][labels] +', "", "test_transferred_features"),
)
PLUS = of(
    "methods/avdiff_plus.py", "methods/test_residuals.py",
    ('"2": 2.0', '"2": 1.0', "test_jitter_moves_the_inputs_of_the_head"),
    ("seen = see(info, variables, moved)", "seen = see(info, variables, features)",
     "test_jitter_moves_the_inputs_of_the_head"),
    ("if name not in RESIDUALS", "", "test_room_for_residuals_is_given_back"),
    ('        room["class_means"] =', '        room["other"] =',
     "test_growing_makes_room_for_new_classes"),
)

MUTANTS = [
    *METRICS, *PROBABILITIES, *LOSSES, *DIFFUSION, *SAMPLING, *MASKS, *ATTENTION, *LAYERS,
    *DROPOUT, *POOLING, *FILM, *TRUNK,
    *STEP, *SETTING, *KEYS, *STAGE, *CONTEXT, *SCORING, *AHEAD, *SUBSTAGE, *OPTIMISERS, *BEGINNING,
    *CURVES, *DRAWS, *SAVES, *CACHE,
    *AVDIFF, *GAN, *PROTOTYPES, *GAUSSIAN, *TEXT_DIFFUSION, *RESIDUALS, *PLUS, *OTHER_METHODS,
    *SAMPLES, *DEALING, *FROM_STORE, *AUDIT, *STAGES, *WINDOWS, *FEED, *STREAM, *GATE, *VALUES,
    *KNOWN, *PRINTS, *LATENTS, *WEIGHTS, *MODEL, *TORCH,
    *ENSEMBLE, *FILES, *DOCUMENTS, *PICKLES,
]
