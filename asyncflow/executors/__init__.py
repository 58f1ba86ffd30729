"""
What calls bodies, each behind the ``Executor`` seam: ``loop`` for coroutine functions, ``inline`` for quick functions
that may hold up the loop, ``thread`` for all others.
"""
