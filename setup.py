"""What pyproject.toml cannot say: a wheel holds launch/ and configs/ inside the package.

They lie beside one another there as they do in the checkout, and take no top-level name.
"""

from setuptools import find_namespace_packages, setup

HOME = {f"avdiff_jax.home.{folder}": folder for folder in ("launch", "configs")}

setup(packages=[*find_namespace_packages(include=["avdiff_jax*"]), *HOME], package_dir=HOME)
