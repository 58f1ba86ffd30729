"""
Which provider wins: the nearest visible one for a name.

Earlier siblings in a linear flow, any sibling in a graph, none in an unordered one; then the same one flow up, until a
builder walls names off. What was given to a flow along with it is met on the way out.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import msgspec

from asyncflow.errors import AmbiguousProvider, UnknownProvider
from asyncflow.graph.inputs import Constant
from asyncflow.graph.place import Entry, Place, Places
from asyncflow.graph.reference import Spec


class Sibling(msgspec.Struct, frozen=True):
    """
    A provider that precedes its reader only if other edges say so: item ``item`` of a graph at ``place``, or what a
    builder returns (``item`` is -1).
    """

    entry: Entry
    place: int
    item: int


class Found(msgspec.Struct, frozen=True):
    """
    What looking for a name has found.

    Attributes:
        entry: The nearest provider that certainly precedes the reader, or is made to by reading it; or None.
        perhaps: Nearer ones, nearest first, if the reader can do without: siblings in a graph.
        is_given: Whether ``entry`` was given to the flow under this name, so that a run cannot give another.
        is_walled: Whether the name is one within a builder, so that a run cannot mean it.
    """

    entry: Entry | None
    perhaps: tuple[Sibling, ...] = ()
    is_given: bool = False
    is_walled: bool = False


NOTHING = Found(None)


class Lookup:
    """Finds providers by name, for what stands anywhere in a flow."""

    def __init__(self, flow: str, places: Places) -> None:
        self._flow = flow
        self._places = places
        self._arguments: dict[int, dict[str, Spec]] = {}
        self._starts: dict[int, list[int]] = {}
        # The names that a run may be given in place of what is provided.
        root = places.all[0]
        self._open = None if root.layout.kind == "builder" else root.domain

    def find(self, place: Place, lo: int, hi: int, name: str, *, optional: bool) -> Found:
        """
        Look for *name* from what stands at ticks *lo* up to *hi* in *place*.

        Raises:
            AmbiguousProvider: Two siblings in a graph provide it.
            UnknownProvider: A builder calls the pattern without it, and the reader cannot do without.
        """
        places, reader = self._places.all, place
        domain, first = place.domain, lo
        domain.read.add(name)
        provided = domain.providers.get(name)
        perhaps: list[Sibling] = []
        while True:
            if provided is not None:
                ticks, entries = provided
                if place.layout.kind == "linear":
                    at = bisect_left(ticks, lo) - 1
                    if at >= 0 and ticks[at] >= place.lo:
                        if not optional or type(entries[at]) is not tuple:
                            return Found(entries[at], tuple(perhaps), is_walled=domain is not self._open)
                        # What a builder returns may come from outside it, and need not be there when it ends.
                        perhaps.append(Sibling(entries[at], place.index, -1))
                elif place.layout.kind == "graph":
                    sibling = self._in_graph(place, lo, hi, name, ticks, entries)
                    if sibling is not None and not optional:
                        return Found(sibling.entry, is_walled=domain is not self._open)
                    if sibling is not None:
                        perhaps.append(sibling)
            if name in place.controls:
                entry = self._places.part(place.controller, place.controls[name])
                return Found(entry, tuple(perhaps), is_given=True)
            if place.is_top:
                break
            around = places[place.parent]
            given = around.layout.given.get(place.position)
            if given is not None and name in given:
                return Found(Constant(given[name]), tuple(perhaps), is_given=True)
            lo, hi, place = place.lo, place.hi, around
        if place.parent < 0:
            return Found(None, tuple(perhaps)) if perhaps else NOTHING
        if name in self.arguments(place):
            return Found(("argument", place.index, name), tuple(perhaps), is_given=True)
        if not optional:
            # Never the run's input of that name: a builder walls names off.
            path = self._places.item_path(reader, bisect_right(self._item_starts(reader), first) - 1)
            have = ", ".join(map(repr, self.arguments(place))) or "nothing"
            raise UnknownProvider(
                f"flow {place.path!r} is called in flow {places[place.parent].flow.name!r} with {have}, and {path!r} "
                f"needs {name!r}; pass {name}=...",
                flow=self._flow,
                task=path,
                input=name,
            )
        return Found(None, tuple(perhaps), is_walled=True)

    def all_visible(self, place: Place, lo: int, hi: int, name: str) -> list[Entry]:
        """Return every provider of *name* that :meth:`find` could have found, nearest first: some may be skipped."""
        found: list[Entry] = []
        ticks, entries = place.domain.providers.get(name, ([], []))
        while True:
            if place.layout.kind == "linear":
                at = bisect_left(ticks, lo) - 1
                while at >= 0 and ticks[at] >= place.lo:
                    found.append(entries[at])
                    at -= 1
            elif place.layout.kind == "graph" and ticks:
                sibling = self._in_graph(place, lo, hi, name, ticks, entries)
                if sibling is not None:
                    found.append(sibling.entry)
            if name in place.controls:
                return [*found, self._places.part(place.controller, place.controls[name])]
            if place.is_top:
                return found
            around = self._places.all[place.parent]
            given = around.layout.given.get(place.position)
            if given is not None and name in given:
                return [*found, Constant(given[name])]
            lo, hi, place = place.lo, place.hi, around

    def arguments(self, place: Place) -> dict[str, Spec]:
        """Return what a flow is called with in the builder around it, by name."""
        found = self._arguments.get(place.index)
        if found is None:
            call = self._places.all[place.parent].layout.calls[place.position]
            found = self._arguments[place.index] = dict(call.keyword)
        return found

    def _in_graph(
        self, place: Place, lo: int, hi: int, name: str, ticks: list[int], entries: list[Entry]
    ) -> Sibling | None:
        first, last = bisect_left(ticks, place.lo), bisect_left(ticks, place.hi)
        before, behind = bisect_left(ticks, lo), bisect_left(ticks, hi)
        # Those at the ends of the two ranges stand for all between: items are in order.
        found = [at for at in (first, before - 1) if first <= at < before]
        found += [at for at in (behind, last - 1) if behind <= at < last]
        if not found:
            return None
        starts = self._item_starts(place)
        items = list(dict.fromkeys(bisect_right(starts, ticks[at]) - 1 for at in found))
        if len(items) > 1:
            reader, one, other = (
                self._places.item_path(place, item) for item in (bisect_right(starts, lo) - 1, items[0], items[1])
            )
            raise AmbiguousProvider(
                f"flow {self._flow!r}: {reader!r} needs input {name!r}, which both {one!r} and {other!r} provide; "
                "give one of them another name with provides=, or say which with rebind=",
                flow=self._flow,
                task=reader,
            )
        return Sibling(entries[found[-1]], place.index, items[0])

    def _item_starts(self, place: Place) -> list[int]:
        """Return the tick at which each item of *place* starts."""
        found = self._starts.get(place.index)
        if found is None:
            ticks, places = self._places.ticks, self._places.all
            found = [ticks[code] if code >= 0 else places[~code].lo for code in place.codes]
            self._starts[place.index] = found
        return found
