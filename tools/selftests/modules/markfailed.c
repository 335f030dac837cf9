// SPDX-License-Identifier: GPL-2.0
/*
 * markfailed.ko - pages that are marked as failed, and no more
 *
 * memory_failure() leaves a page so that it meets off the LRU lists, while somebody
 * moves it for instance. The parameter "pfn" takes a frame.
 */
#include <linux/errno.h>
#include <linux/kstrtox.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/page-flags.h>

static int pfn_set(const char *val, const struct kernel_param *kp)
{
	unsigned long pfn;

	if (kstrtoul(val, 0, &pfn))
		return -EINVAL;
	if (!pfn_valid(pfn))
		return -ENXIO;
	SetPageHWPoison(pfn_to_page(pfn));
	return 0;
}

static const struct kernel_param_ops pfn_ops = {
	.set = pfn_set,
};

module_param_cb(pfn, &pfn_ops, NULL, 0200);
MODULE_PARM_DESC(pfn, "a frame to mark as failed");

MODULE_DESCRIPTION("Marks pages as failed, to test what becomes of them");
MODULE_LICENSE("GPL");
