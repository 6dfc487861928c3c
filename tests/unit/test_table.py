"""Request table. Against a dict, at random, in differential/test_table.py."""

import random

import pytest

from fasttunnel._core import KernelError, RequestTable


@pytest.mark.parametrize("id", [b"", bytes(17), b"x" * 1_000_000])
def test_ids_have_1_to_16_bytes(id: bytes) -> None:
    table = RequestTable()
    with pytest.raises(KernelError):
        table.put(id, 1)
    assert table.find(id) is None
    assert table.pop(id) is None
    table.put(b"x", 1)
    assert table.find(id) is None
    assert table.pop(id) is None


def test_zeros_are_part_of_an_id() -> None:
    table = RequestTable()
    ids = [bytes(n) for n in range(1, 17)] + [b"a" + bytes(n) for n in range(16)]
    for value, id in enumerate(ids, 1):
        assert table.put(id, value)
    assert [table.find(id) for id in ids] == list(range(1, 33))
    assert [table.pop(id) for id in ids] == list(range(1, 33))


def test_put_never_replaces() -> None:
    table = RequestTable()
    assert table.put(b"ws-1", 1)
    assert not table.put(b"ws-1", 2)
    assert (table.find(b"ws-1"), len(table)) == (1, 1)
    with pytest.raises(KernelError):
        table.put(b"ws-2", 0)


def test_it_grows_and_shrinks_in_steps() -> None:
    table = RequestTable()
    ids = [b"ws-%x" % n for n in range(100_000)]
    capacities = set()
    for value, id in enumerate(ids, 1):
        table.put(id, value)
        capacities.add(table.capacity)
        assert len(table) * 4 <= table.capacity * 3
    assert table.capacity == 2**18
    random.Random(1).shuffle(ids)
    for id in ids:
        assert table.find(id)
        assert table.pop(id)
        capacities.add(table.capacity)
        assert table.capacity <= 1024 or table.capacity <= 8 * len(table)
    assert capacities == {2**n for n in range(4, 19)}
    assert (len(table), table.capacity) == (0, 1024)


def test_no_thrashing_at_the_edges() -> None:
    """One entry more or less at the edge of a resize must not resize each time."""
    table = RequestTable()
    ids = [b"%d" % n for n in range(13)]
    for value, id in enumerate(ids, 1):
        table.put(id, value)
    assert table.capacity == 32
    for _ in range(10):
        table.pop(ids[-1])
        assert table.capacity == 32
        table.put(ids[-1], 13)
        assert table.capacity == 32


def test_places_depend_on_the_secret() -> None:
    one, other = RequestTable(bytes(16)), RequestTable(bytes(15) + b"\x01")
    ids = [b"ws-%x" % n for n in range(100)]
    assert [one.hash(id) for id in ids] != [other.hash(id) for id in ids]
    assert RequestTable().hash(b"ws-1") == RequestTable().hash(b"ws-1")  # one secret in a process
    assert RequestTable().hash(b"ws-1") != one.hash(b"ws-1")


def test_ids_that_would_collide_without_a_secret_are_spread() -> None:
    table = RequestTable()
    for ids in (
        [n.to_bytes(16, "big") for n in range(4096)],
        [n.to_bytes(16, "little") for n in range(4096)],
        [(n << 20).to_bytes(8, "little") for n in range(4096)],
    ):
        buckets = [0] * 4096
        for id in ids:
            buckets[table.hash(id) & 4095] += 1
        assert max(buckets) < 14  # 4096 balls in 4096 bins; a fixed pattern would fill a few


def sip13(key: bytes, data: bytes) -> int:
    """SipHash-1-3, written down from its paper."""
    full = 2**64 - 1

    def rotl(x: int, b: int) -> int:
        return (x << b | x >> (64 - b)) & full

    def rounds(n: int) -> None:
        for _ in range(n):
            v[0] = (v[0] + v[1]) & full
            v[1] = rotl(v[1], 13) ^ v[0]
            v[0] = rotl(v[0], 32)
            v[2] = (v[2] + v[3]) & full
            v[3] = rotl(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & full
            v[3] = rotl(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & full
            v[1] = rotl(v[1], 17) ^ v[2]
            v[2] = rotl(v[2], 32)

    k0, k1 = (int.from_bytes(key[i : i + 8], "little") for i in (0, 8))
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]
    words = [data[i : i + 8] for i in range(0, len(data) - len(data) % 8, 8)]
    last = data[len(data) - len(data) % 8 :].ljust(7, b"\x00") + bytes([len(data) & 0xFF])
    for word in [*words, last]:
        m = int.from_bytes(word, "little")
        v[3] ^= m
        rounds(1)
        v[0] ^= m
    v[2] ^= 0xFF
    rounds(3)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_hash_is_siphash_1_3() -> None:
    key = bytes(range(16))
    table = RequestTable(key)
    chance = random.Random(3)
    for length in range(1, 17):
        for id in (bytes(length), chance.randbytes(length), chance.randbytes(length)):
            assert table.hash(id) == sip13(key, id)
