"""One question a file: each has ``ask(bench)``, and its docstring says what is asked."""
