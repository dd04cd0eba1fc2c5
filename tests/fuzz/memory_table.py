"""The job table in memory, so that a fuzzed request reaches no service: as many conditions hold as are asked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from services.table import Item, Table


@dataclass(frozen=True)
class MemoryTable(Table):
    """A table for one thread of requests; what it holds is in `items`, by `(pk, sk)`."""

    items: dict[tuple[str, str], Item] = field(default_factory=dict)

    def put_all(self, items: Sequence[Item]) -> None:
        self.items.update({(str(item["pk"]), str(item["sk"])): item for item in items})

    def delete_all(self, keys: Sequence[tuple[str, str]]) -> None:
        for key in keys:
            self.items.pop(key, None)

    def put_if(self, item: Item, condition: str, values: Item | None = None) -> bool:
        self.put_all([item])
        return True

    def delete_if(self, pk: str, sk: str, condition: str, values: Item | None = None) -> bool:
        return self.items.pop((pk, sk), None) is not None

    def set(self, pk: str, sk: str, attributes: Item, condition: str | None = None) -> bool:
        self.items[pk, sk] = {"pk": pk, "sk": sk, **self.items.get((pk, sk), {}), **attributes}
        return True

    def get(self, pk: str, sk: str) -> Item | None:
        return self.items.get((pk, sk))

    def get_all(self, keys: Sequence[tuple[str, str]]) -> list[Item]:
        return [self.items[key] for key in keys if key in self.items]

    def query(
        self, pk: str, low: str, high: str, *, limit: int | None = None, newest_first: bool = False
    ) -> Iterator[Item]:
        found = sorted(key for key in self.items if key[0] == pk and low <= key[1] <= high)
        yield from (self.items[key] for key in (found[::-1] if newest_first else found)[:limit])

    def count(self, pk: str, prefix: str) -> int:
        return sum(held == pk and name.startswith(prefix) for held, name in self.items)
