"""Which classes are added to a model."""


from avdiff_jax.data.splits.new_classes import spell_names


def test_names_with_commas_in_files_and_more_than_once(tmp_path):
    known = ["a", "b", "salt, pepper", "caf\u00e9"]
    path = tmp_path / "names.txt"
    path.write_text("salt, pepper\n\ncafe\u0301\n", encoding="utf-8")
    assert spell_names(["a,b"], known) == ["a", "b"]
    assert spell_names(["salt, pepper", "A"], known) == ["salt, pepper", "a"]
    assert spell_names([str(path), "b"], known) == ["salt, pepper", "caf\u00e9", "b"]
    assert spell_names(["c,d"], known) == ["c", "d"]
