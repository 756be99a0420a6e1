"""While tests run, every shape and type that a signature of verydeep states is checked."""

from jaxtyping import install_import_hook

install_import_hook("verydeep", "beartype.beartype")
