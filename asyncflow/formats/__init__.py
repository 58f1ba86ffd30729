"""
A plan as a picture: ``mermaid`` for Markdown pages, ``dot`` for Graphviz, ``text`` for terminals.

Each has one function, ``render(plan, states=None)``, and takes compiled plans and those read from a journal alike.
``picture`` has what they share: which nodes and edges are worth drawing, and names that cannot do harm.
"""
