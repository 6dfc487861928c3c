/* Which parts of the extension modules an input has reached: make fuzz preloads this library, tests/fuzz/coverage.py
   reads it. The compiler has every basic block call __sanitizer_cov_trace_pc (-fsanitize-coverage=trace-pc). */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PLACES 65536

static uint8_t hits[PLACES]; /* by this input, as far as a byte counts */
static uint8_t seen[PLACES]; /* by any input: a bit for each order of magnitude */

void __sanitizer_cov_trace_pc(void)
{
    uintptr_t place = (uintptr_t)__builtin_return_address(0);
    uint8_t *hit = &hits[((place >> 1) ^ (place >> 17)) & (PLACES - 1)];
    if (*hit != UINT8_MAX)
        ++*hit;
}

void coverage_begin(void)
{
    memset(hits, 0, sizeof hits);
}

/* How many places this input has reached that none had before; with `orders`, also those that were reached twice,
   four times, eight times and so on as often as by none. */
int coverage_new(int orders)
{
    int news = 0;
    for (size_t at = 0; at < PLACES; at++) {
        uint8_t bit = !hits[at] ? 0 : !orders ? 1 : (uint8_t)(1u << (31 - __builtin_clz(hits[at])));
        news += (seen[at] | bit) != seen[at];
        seen[at] |= bit;
    }
    return news;
}

int coverage_total(void)
{
    int total = 0;
    for (size_t at = 0; at < PLACES; at++)
        total += seen[at] != 0;
    return total;
}

void coverage_forget(void)
{
    memset(seen, 0, sizeof seen);
}
