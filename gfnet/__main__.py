"""`python -m gfnet COMMAND …`: the form that a cluster job's entrypoint uses."""

import importlib
import sys

# By name: the library must not depend on what is built upon it.
sys.exit(importlib.import_module("pipelines.cli").main())
