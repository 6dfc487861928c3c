# Request table: request_id -> entry, open addressing with linear probing.
#
# Ids come from strangers, so their places are decided by SipHash-1-3 under a secret of this process. A removed entry
# leaves no tombstone (the cluster is shifted back); the table doubles at 3/4 and halves below 1/8 where it is large, so each change
# costs O(1) on average, and a table that was large once does not stay so.

cdef enum:
    REQUEST_ID_BYTES = 16
    TABLE_FIRST_ENTRIES = 16
    TABLE_KEPT_ENTRIES = 1024       # 32 KiB: up to here a table is not made smaller, for requests often come in bursts

cdef uint64_t _process_secret[2]


cdef inline uint64_t _rotl(uint64_t x, int b) noexcept nogil:
    return x << b | x >> (64 - b)


cdef inline void _sip_round(uint64_t *v) noexcept nogil:
    v[0] += v[1]
    v[2] += v[3]
    v[1] = _rotl(v[1], 13) ^ v[0]
    v[3] = _rotl(v[3], 16) ^ v[2]
    v[0] = _rotl(v[0], 32)
    v[2] += v[1]
    v[0] += v[3]
    v[1] = _rotl(v[1], 17) ^ v[2]
    v[3] = _rotl(v[3], 21) ^ v[0]
    v[2] = _rotl(v[2], 32)


cdef inline uint64_t _sip13(const uint64_t *secret, const uint64_t *key, uint64_t key_len) noexcept nogil:
    """SipHash-1-3 of the first `key_len` bytes, at most 16, of a key that is padded with zeros."""
    cdef:
        uint64_t v[4]
        uint64_t word
        uint64_t full = key_len >> 3
        uint64_t i
    v[0] = secret[0] ^ <uint64_t>0x736F6D6570736575
    v[1] = secret[1] ^ <uint64_t>0x646F72616E646F6D
    v[2] = secret[0] ^ <uint64_t>0x6C7967656E657261
    v[3] = secret[1] ^ <uint64_t>0x7465646279746573
    for i in range(full + 1):
        word = key[i] if i < 2 else 0
        if i == full:                                   # the last block holds what is left, and the length on top
            word |= key_len << 56
        v[3] ^= word
        _sip_round(v)
        v[0] ^= word
    v[2] ^= 0xFF
    for i in range(3):
        _sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


cdef inline bint _id_key(const uint8_t *id, size_t n, uint64_t *key) noexcept nogil:
    if n == 0 or n > REQUEST_ID_BYTES:
        return False
    key[0] = 0
    key[1] = 0
    memcpy(key, id, n)
    return True


cdef inline size_t _home(const Table *t, const TableEntry *entry) noexcept nogil:
    return <size_t>_sip13(t.secret, entry.key, entry.key_len) & (t.capacity - 1)


cdef TableEntry *_place(const Table *t, const uint64_t *key, uint64_t key_len) noexcept nogil:
    """The entry of this key, or the free one where it belongs. A quarter of the table is free, so the loop ends."""
    cdef:
        size_t mask = t.capacity - 1
        size_t i = <size_t>_sip13(t.secret, key, key_len) & mask
        TableEntry *entry
    while True:
        entry = &t.entries[i]
        if entry.value == NULL:
            return entry
        if entry.key[0] == key[0] and entry.key[1] == key[1] and entry.key_len == key_len:
            return entry
        i = (i + 1) & mask


cdef int _resize(Table *t, size_t capacity) noexcept nogil:
    cdef:
        Table old = t[0]
        TableEntry *entries = <TableEntry *>calloc(capacity, sizeof(TableEntry))
        size_t i
    if entries == NULL:
        return -1
    t.entries = entries
    t.capacity = capacity
    for i in range(old.capacity):
        if old.entries[i].value != NULL:
            _place(t, old.entries[i].key, old.entries[i].key_len)[0] = old.entries[i]
    free(old.entries)
    return 0


cdef int tbl_init(Table *t) noexcept nogil:
    memset(t, 0, sizeof(Table))
    t.secret[0] = _process_secret[0]
    t.secret[1] = _process_secret[1]
    return _resize(t, TABLE_FIRST_ENTRIES)


cdef void tbl_free(Table *t) noexcept nogil:
    free(t.entries)
    memset(t, 0, sizeof(Table))


cdef void *tbl_find(const Table *t, const uint8_t *id, size_t n) noexcept nogil:
    cdef uint64_t key[2]
    if t.count == 0 or not _id_key(id, n, key):
        return NULL
    return _place(t, key, n).value


cdef int tbl_put(Table *t, const uint8_t *id, size_t n, void *value) noexcept nogil:
    cdef:
        uint64_t key[2]
        TableEntry *entry
    if t.entries == NULL or value == NULL or not _id_key(id, n, key):
        return -1
    if (t.count + 1) * 4 > t.capacity * 3 and _resize(t, t.capacity * 2) < 0:
        return -1
    entry = _place(t, key, n)
    if entry.value != NULL:
        return 1
    entry.key[0] = key[0]
    entry.key[1] = key[1]
    entry.key_len = n
    entry.value = value
    t.count += 1
    return 0


cdef void *tbl_pop(Table *t, const uint8_t *id, size_t n) noexcept nogil:
    cdef:
        uint64_t key[2]
        TableEntry *entry
        void *value
        size_t mask, hole, i
    if t.count == 0 or not _id_key(id, n, key):
        return NULL
    entry = _place(t, key, n)
    value = entry.value
    if value == NULL:
        return NULL
    mask = t.capacity - 1
    hole = <size_t>(entry - t.entries)
    i = hole
    while True:
        i = (i + 1) & mask
        entry = &t.entries[i]
        if entry.value == NULL:
            break
        # The entry may move into the hole unless its home lies behind the hole, cyclically.
        if ((i - _home(t, entry)) & mask) >= ((i - hole) & mask):
            t.entries[hole] = entry[0]
            hole = i
    memset(&t.entries[hole], 0, sizeof(TableEntry))
    t.count -= 1
    if t.capacity > TABLE_KEPT_ENTRIES and t.count * 8 < t.capacity:
        _resize(t, t.capacity // 2)                     # without memory it simply stays as large as it was
    return value
