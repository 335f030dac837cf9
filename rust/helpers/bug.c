// SPDX-License-Identifier: GPL-2.0

#include <linux/bug.h>

#include "../ffi.h"

/*
 * The kernel crate's warn_on!() reads sources that are generated while the kernel is built,
 * which distributions' build trees leave out.
 */
bool privmemfd_helper_warn_on(bool condition)
{
	return WARN_ON(condition);
}
