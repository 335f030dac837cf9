// SPDX-License-Identifier: GPL-2.0

#include <linux/notifier.h>
#include <linux/suspend.h>

#include "../ffi.h"

static int power_event(struct notifier_block *nb, unsigned long event, void *unused)
{
	switch (event) {
	case PM_HIBERNATION_PREPARE:
		return notifier_from_errno(privmemfd_rust_hibernation_prepare());
	case PM_POST_HIBERNATION:
		privmemfd_rust_hibernation_over();
		return NOTIFY_OK;
	default:
		return NOTIFY_DONE;
	}
}

static struct notifier_block power_notifier = {
	.notifier_call = power_event,
};

int privmemfd_helper_register_pm_notifier(void)
{
	return register_pm_notifier(&power_notifier);
}

void privmemfd_helper_unregister_pm_notifier(void)
{
	unregister_pm_notifier(&power_notifier);
}
