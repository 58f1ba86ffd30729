"""Who waits for whom: edges between nodes, and the gates at which groups meet."""

from __future__ import annotations

from asyncflow.graph.place import Place, Places


class Edges:
    """
    The edges of a plan while it is made. Tasks are nodes 0 to n - 1, gates come behind.

    Attributes:
        before: For each node those that it waits for, in the order they were added, perhaps twice.
        gates: For each gate the number of the flow that it belongs to.
        begin: For each flow with a controller, that task, which comes before all else in it.
        end: For each flow with a controller, the gate behind it.
        guarded: For each flow without one that a condition guards, the gate before it.
    """

    __slots__ = ("_places", "before", "begin", "end", "gates", "guarded", "leads", "size", "trails")

    def __init__(self, places: Places) -> None:
        self._places = places.all
        self.size = len(places.tasks)
        self.before: list[list[int]] = [[] for _ in range(self.size)]
        self.gates: list[int] = []
        # Which tasks wait for another task of their own flow, and for which another waits.
        self.trails = bytearray(self.size)
        self.leads = bytearray(self.size)
        self.begin: dict[int, int] = {}
        self.end: dict[int, int] = {}
        self.guarded: dict[int, int] = {}
        for place in places.all:
            if place.controller >= 0:
                self.begin[place.index] = place.controller
                self.end[place.index] = self.gate(place.index)
        for place in places.all:
            if place.flow.condition is not None:
                self._guard(place)
            for _, behind in place.layout.conditions:
                if place.codes[behind] < 0:
                    self._guard(places.all[~place.codes[behind]])

    def _guard(self, place: Place) -> None:
        if place.index not in self.begin and place.index not in self.guarded:
            self.guarded[place.index] = self.gate(place.index)

    def entry(self, place: int) -> int:
        """Return the node before all else in the flow at *place*, which a condition guards."""
        return self.begin[place] if place in self.begin else self.guarded[place]

    def gate(self, place: int) -> int:
        """Return a new gate in the flow at *place*."""
        self.gates.append(place)
        self.before.append([])
        return self.size + len(self.gates) - 1

    def add(self, first: int, then: int) -> None:
        """Let node *then* wait for node *first*."""
        self.before[then].append(first)

    def connect(self, first: list[int], then: list[int], place: int) -> None:
        """Let every node of *then* wait for every one of *first*: by a gate in *place* where both are many."""
        if len(first) > 1 and len(then) > 1:
            gate = self.gate(place)
            self.before[gate].extend(first)
            first = [gate]
        for node in then:
            self.before[node].extend(first)

    def by_value(self, provider: int, provider_place: int, reader: int, reader_place: int) -> None:
        """
        Let *reader* wait for *provider*, whose value it reads.

        A flow with a controller is atomic to its surroundings: an edge out of it leaves from its end, and one into it
        enters at its beginning.
        """
        if self.begin and provider_place != reader_place:
            provider = self._outermost(self.end, provider_place, reader_place, provider)
            reader = self._outermost(self.begin, reader_place, provider_place, reader)
        elif provider_place == reader_place and reader < self.size and provider < self.size:
            self.leads[provider] = 1
            self.trails[reader] = 1
        self.before[reader].append(provider)

    def by_values(self, providers: tuple[int, ...], reader: int) -> None:
        """Let task *reader* wait for tasks of its own flow, whose values it reads."""
        leads = self.leads
        for provider in providers:
            leads[provider] = 1
        self.trails[reader] = 1
        self.before[reader].extend(providers)

    def _outermost(self, gates: dict[int, int], inside: int, outside: int, node: int) -> int:
        """Return the gate of the outermost flow with a controller around *inside* that is not around *outside*."""
        around = set[int]()
        while outside >= 0:
            around.add(outside)
            outside = self._places[outside].parent
        while inside not in around:
            node = gates.get(inside, node)
            inside = self._places[inside].parent
        return node


class Sequencer:
    """
    Adds the edges that come from order: one after the other in ``linear``, ``link`` in a graph, ``after`` in a builder.

    The nodes at which a flow begins and ends are worked out only where an order asks for them.
    """

    __slots__ = ("_edges", "_entries", "_exits", "_links", "_places", "_wants_entry", "_wants_exit")

    def __init__(self, places: Places, edges: Edges) -> None:
        self._places = places.all
        self._edges = edges
        count = len(places.all)
        self._entries: list[list[int]] = [[] for _ in range(count)]
        self._exits: list[list[int]] = [[] for _ in range(count)]
        self._wants_entry = bytearray(count)
        self._wants_exit = bytearray(count)
        # Place to the pairs (node or ~place, position) that an "after" puts before an item.
        self._links: dict[int, list[tuple[int, int]]] = {}

    def link(self, place: int, before: int, after: int) -> None:
        """Let the items of code *before* and *after* follow each other in *place*."""
        self._links.setdefault(place, []).append((before, after))

    def run(self) -> None:
        """Add all edges. Links must have been told, and edges by value added, before."""
        for place in self._places:
            if place.layout.links:
                codes = place.codes
                for first, then in place.layout.links:
                    self.link(place.index, codes[first], codes[then])
        for place in self._places:
            self._spread(place)
        # Flows within come behind those around them, so this is from the inside out.
        for place in reversed(self._places):
            self._connect(place)

    def _spread(self, place: Place) -> None:
        """Find out which flows in *place* need a beginning or an end."""
        index, codes = place.index, place.codes
        has_gates = index in self._edges.begin
        needs_entry = self._wants_entry[index] or has_gates or index in self._edges.guarded
        needs_exit = self._wants_exit[index] or has_gates
        linear, last = place.layout.kind == "linear", len(codes) - 1
        for at, code in enumerate(codes):
            if code < 0:
                self._wants_entry[~code] = needs_entry if not linear or at == 0 else 1
                self._wants_exit[~code] = needs_exit if not linear or at == last else 1
        for before, after in self._links.get(index, ()):
            if before < 0:
                self._wants_exit[~before] = 1
            if after < 0:
                self._wants_entry[~after] = 1

    def _connect(self, place: Place) -> None:
        index, codes, edges = place.index, place.codes, self._edges
        leads, trails = self._link_items(place)
        if place.layout.kind == "linear":
            self._chain(place)
            firsts, lasts = codes[:1], codes[-1:]
        else:
            firsts = [code for code in codes if not (code in trails or (code >= 0 and edges.trails[code]))] or codes
            lasts = [code for code in codes if not (code in leads or (code >= 0 and edges.leads[code]))] or codes
        if index in edges.begin:
            begin, end = edges.begin[index], edges.end[index]
            edges.connect([begin], self._union(firsts, self._entries, index) if codes else [end], index)
            edges.connect(self._union(lasts, self._exits, index), [end], index)
            self._entries[index], self._exits[index] = [begin], [end]
        elif index in edges.guarded:
            gate = edges.guarded[index]
            if codes:
                edges.connect([gate], self._union(firsts, self._entries, index), index)
            if self._wants_exit[index]:
                self._exits[index] = self._union(lasts, self._exits, index) if codes else [gate]
            self._entries[index] = [gate]
        elif not codes and (self._wants_entry[index] or self._wants_exit[index]):
            # An empty flow in a sequence is one gate, through which its neighbours are connected.
            self._entries[index] = self._exits[index] = [edges.gate(index)]
        else:
            if self._wants_entry[index]:
                self._entries[index] = self._union(firsts, self._entries, index)
            if self._wants_exit[index]:
                self._exits[index] = self._union(lasts, self._exits, index)

    def _chain(self, place: Place) -> None:
        edges, codes, before = self._edges, place.codes, self._edges.before
        last: list[int] = []
        for code in codes:
            if code >= 0 and len(last) == 1:
                before[code].append(last[0])
            elif last:
                edges.connect(last, self._ends(code, self._entries), place.index)
            last = self._ends(code, self._exits)

    def _link_items(self, place: Place) -> tuple[set[int], set[int]]:
        """Add the links among the items of *place*; return the codes that something waits for, and that wait."""
        links = self._links.get(place.index)
        if not links:
            return set(), set()
        links = list(dict.fromkeys(links))
        leaving: dict[int, int] = {}
        entering: dict[int, int] = {}
        for before, after in links:
            leaving[before] = leaving.get(before, 0) + 1
            entering[after] = entering.get(after, 0) + 1
        exits: dict[int, list[int]] = {}
        entries: dict[int, list[int]] = {}
        for before, after in links:
            # Where a group takes part in several links, it does so through one gate.
            if before not in exits:
                nodes = self._ends(before, self._exits)
                exits[before] = self._gathered(nodes, place.index) if leaving[before] > 1 else nodes
            if after not in entries:
                nodes = self._ends(after, self._entries)
                entries[after] = self._scattered(nodes, place.index) if entering[after] > 1 else nodes
            self._edges.connect(exits[before], entries[after], place.index)
        return set(leaving), set(entering)

    def _ends(self, code: int, ends: list[list[int]]) -> list[int]:
        return [code] if code >= 0 else ends[~code]

    def _union(self, codes: list[int], ends: list[list[int]], place: int) -> list[int]:
        """Return the ends of several items; of an item with many, through a gate, so that no list is copied twice."""
        if len(codes) == 1:
            return self._ends(codes[0], ends)
        collapse = self._gathered if ends is self._exits else self._scattered
        found: list[int] = []
        for code in codes:
            if code >= 0:
                found.append(code)
            else:
                found.extend(collapse(ends[~code], place))
        return found

    def _gathered(self, nodes: list[int], place: int) -> list[int]:
        if len(nodes) < 2:
            return nodes
        gate = self._edges.gate(place)
        self._edges.before[gate].extend(nodes)
        return [gate]

    def _scattered(self, nodes: list[int], place: int) -> list[int]:
        if len(nodes) < 2:
            return nodes
        gate = self._edges.gate(place)
        for node in nodes:
            self._edges.before[node].append(gate)
        return [gate]
