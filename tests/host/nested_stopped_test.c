/* SPDX-License-Identifier: MIT */
/*
 * nested_stopped_test.c - P8: L0 stops L1 after any one of its stores, and moves it.
 *
 * The pages' writers are compiled here once more, with their stores counted.
 */
#include <stdatomic.h>
#include <stdint.h>

static void stored(void);

static inline void store_word(_Atomic uint32_t *word, uint32_t value, memory_order order)
{
	atomic_store_explicit(word, value, order);
	stored();
}

#undef atomic_store_explicit
#define atomic_store_explicit(word, value, order) store_word(word, value, order)
#include "../../src/page/nested.c"
#include "../../src/page/write.c"
#undef atomic_store_explicit
#include "nested_world.h"

/* Which store of which L1 is the last before L0 stops it; 0: none. */
static unsigned int countdown;
static struct world *stopped;
static void (*stop)(struct world *w);

static void stored(void)
{
	void (*now)(struct world *w) = stop;

	if (countdown == 0 || --countdown > 0)
		return;
	stop = NULL;
	now(stopped);
}

static void publish(struct world *w)
{
	pvclock_vm_publish(w->level[1].vm);
}

static void register_elsewhere(struct world *w)
{
	assert_int_equal(pvclock_vcpu_write_msr(w->level[1].vcpu, PVCLOCK_MSR_SYSTEM_TIME, 0x400 | 1), 0);
}

static void move_counter(struct world *w)
{
	struct pvclock_tsc_transform other = pvclock_tsc_unscaled(1000005);

	assert_int_equal(pvclock_vcpu_set_tsc(w->level[1].vcpu, &other, false), 0);
}

/* L0 moves L1 after the n-th store of what L1 does; L1's engine then looks at the generation, as it does before its vCPU runs. */
static void p8_stopped_after_any_store(void **state)
{
	static void (*const acts[])(struct world *w) = { publish, register_elsewhere, move_counter };
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(5), tsc;
	unsigned int refused = 0, rewritten = 0;

	(void)state;
	for (size_t act = 0; act < sizeof(acts) / sizeof(*acts); act++) {
		for (unsigned int n = 1;; n++) {
			struct world *w = new_world(&l2, NULL);
			struct readings before, after;
			struct pvclock_line expected, line;
			struct pvclock_nested told;
			bool ran;

			w->next_move = moves[2];
			stopped = w;
			w->in_store = true;
			stop = move_host;
			countdown = n;
			take_readings(w, &before);
			acts[act](w);
			ran = stop == NULL;
			stop = NULL;
			stopped = NULL;
			w->in_store = false;
			countdown = 0;
			if (!ran) { /* it has no more stores */
				free_world(w);
				assert_true(n > 8);
				break;
			}
			assert_int_equal(pvclock_nested_read(table_of(w), &told), PVCLOCK_READ_OK);
			assert_int_equal(told.generation, 1);
			rewritten += told.rewritten;
			refused += told.refused;
			follow(&w->level[1]);
			assert_int_equal(pvclock_vcpu_get_line(w->level[1].vcpu, &line), 0);
			/* by the rule, from the line that was, over the counter that is */
			pvclock_vcpu_get_tsc(w->level[1].vcpu, &tsc);
			pvclock_line_shift(&before.line[1], (int64_t)(tsc.offset - l2.offset));
			assert_true(pvclock_line_follow(&told.changes[1], &tsc, &before.line[1], &expected));
			assert_true(same(&line, &expected));
			read_page(w, L2_MEMORY + (acts[act] == register_elsewhere ? 0x400 : L2_PAGE), &after.line[1]);
			assert_true(same(&after.line[1], &expected));
			/* and it is entered again: the next time it is rewritten */
			w->next_move = moves[0];
			move_host(w);
			assert_int_equal(table_of(w)->rewritten, 1);
			assert_int_equal(table_of(w)->refused, 0);
			free_world(w);
		}
	}
	assert_true(refused > 0 && rewritten > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p8_stopped_after_any_store),
	};

	return cmocka_run_group_tests_name("nested stopped", tests, NULL, NULL);
}
