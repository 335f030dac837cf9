// SPDX-License-Identifier: GPL-2.0
/*
 * stray.ko - a host that touches memory which is not its own
 *
 * Writing a page frame number to the parameter "look" reads the first word of
 * the page, which reading the parameter then tells. Writing one to "harm"
 * stores a word there.
 */
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sysfs.h>

static u64 seen;

static u64 *first_word(const char *val)
{
	unsigned long pfn;

	if (kstrtoul(val, 0, &pfn) || !pfn_valid(pfn))
		return NULL;
	return pfn_to_kaddr(pfn);
}

static int look_set(const char *val, const struct kernel_param *kp)
{
	u64 *word = first_word(val);

	if (!word)
		return -EINVAL;
	seen = READ_ONCE(*word);
	return 0;
}

static int look_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%llu\n", seen);
}

static int harm_set(const char *val, const struct kernel_param *kp)
{
	u64 *word = first_word(val);

	if (!word)
		return -EINVAL;
	WRITE_ONCE(*word, 0x6d726168);
	return 0;
}

static const struct kernel_param_ops look_ops = {
	.set = look_set,
	.get = look_get,
};

static const struct kernel_param_ops harm_ops = {
	.set = harm_set,
};

module_param_cb(look, &look_ops, NULL, 0600);
MODULE_PARM_DESC(look, "page frame to read, then its first word");
module_param_cb(harm, &harm_ops, NULL, 0200);
MODULE_PARM_DESC(harm, "page frame to write to");

MODULE_DESCRIPTION("Reads and writes any page, to test what that does to TDs");
MODULE_LICENSE("GPL");
