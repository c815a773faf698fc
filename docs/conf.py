"""Sphinx configuration; ``sphinx-build -W -b html docs docs/_build`` builds offline."""

import os
import shutil
from pathlib import Path

import slamglmm

HERE = Path(__file__).parent
# Sphinx reads only below this folder, and the vignettes belong at the top of the repository.
shutil.copytree(HERE.parent / "vignettes", HERE / "vignettes", dirs_exist_ok=True)

project = "slamglmm"
author = "the slamglmm developers"
version = release = slamglmm.__version__

extensions = ["sphinx.ext.autodoc", "myst_nb", "numpydoc"]
exclude_patterns = ["_build", "jupyter_execute", ".jupyter_cache"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
# SLAMGLMM_DOCS_EXECUTE=off leaves the vignettes without output.
nb_execution_mode = os.environ.get("SLAMGLMM_DOCS_EXECUTE", "cache")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
numpydoc_show_class_members = False
autodoc_typehints = "none"
html_theme = "alabaster"
html_static_path = ["_static"]
html_theme_options = {"description": "Mixed models for many traits", "page_width": "1100px", "sidebar_width": "220px"}
