"""The request table against a dict."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fasttunnel._core import RequestTable

# Few ids, so that rules meet the same ones, and enough for the table to grow, shrink and have clusters that wrap.
IDS = st.integers(0, 60).map(lambda n: b"r%d" % n) | st.binary(min_size=1, max_size=16)


class TableMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = RequestTable()
        self.model: dict[bytes, int] = {}

    @rule(id=IDS, value=st.integers(1, 2**62))
    def put(self, id: bytes, value: int) -> None:
        assert self.table.put(id, value) == (id not in self.model)
        self.model.setdefault(id, value)

    @rule(ids=st.lists(IDS, min_size=5, max_size=40))
    def put_many(self, ids: list[bytes]) -> None:
        for value, id in enumerate(ids, 1):
            self.put(id, value)

    @rule(id=IDS)
    def pop(self, id: bytes) -> None:
        assert self.table.pop(id) == self.model.pop(id, None)

    @rule(data=st.data())
    def pop_many(self, data: st.DataObject) -> None:
        if self.model:
            for id in data.draw(st.lists(st.sampled_from(sorted(self.model)), unique=True)):
                self.pop(id)

    @rule(id=IDS)
    def find(self, id: bytes) -> None:
        assert self.table.find(id) == self.model.get(id)

    @invariant()
    def same(self) -> None:
        assert len(self.table) == len(self.model)
        assert all(self.table.find(id) == value for id, value in self.model.items())
        assert self.table.capacity <= 1024 or len(self.table) * 8 >= self.table.capacity


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
