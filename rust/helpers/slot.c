// SPDX-License-Identifier: GPL-2.0

#include <linux/srcu.h>

#include "../ffi.h"

/* Users of a pointer in any slot. */
DEFINE_STATIC_SRCU(slots);

int privmemfd_helper_slots_read_lock(void)
{
	return srcu_read_lock(&slots);
}

void privmemfd_helper_slots_read_unlock(int index)
{
	srcu_read_unlock(&slots, index);
}

void privmemfd_helper_slots_synchronize(void)
{
	synchronize_srcu(&slots);
}
