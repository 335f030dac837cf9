// SPDX-License-Identifier: GPL-2.0

#include <linux/capability.h>

#include "../ffi.h"

bool privmemfd_helper_capable(int cap)
{
	return capable(cap);
}
