// SPDX-License-Identifier: GPL-2.0
/*
 * copyfail.ko - pages whose memory fails while they are copied
 *
 * folio_mc_copy() reports -EHWPOISON as often as the parameter "copies" says,
 * after it has copied: what is at the new place then has to be erased. Reading
 * the parameter tells how many are still to come.
 */
#include <linux/atomic.h>
#include <linux/errno.h>
#include <linux/kprobes.h>
#include <linux/kstrtox.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/pagemap.h>
#include <linux/ptrace.h>
#include <linux/sysfs.h>

static atomic_t copies;

static int copies_set(const char *val, const struct kernel_param *kp)
{
	int number;

	if (kstrtoint(val, 0, &number) || number < 0)
		return -EINVAL;
	atomic_set(&copies, number);
	return 0;
}

static int copies_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%d\n", atomic_read(&copies));
}

static const struct kernel_param_ops copies_ops = {
	.set = copies_set,
	.get = copies_get,
};

module_param_cb(copies, &copies_ops, NULL, 0600);
MODULE_PARM_DESC(copies, "number of the next copies of a page that fail");

/* Of files that cannot be evicted: mm moves many other pages. */
static int copying(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct folio *src = (struct folio *)regs_get_kernel_argument(regs, 1);
	struct address_space *mapping = folio_mapping(src);

	return mapping && mapping_unevictable(mapping) ? 0 : -ENOENT;
}

static int copied(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	if (atomic_dec_if_positive(&copies) >= 0)
		regs_set_return_value(regs, -EHWPOISON);
	return 0;
}

static struct kretprobe probe = {
	.kp.symbol_name = "folio_mc_copy",
	.entry_handler = copying,
	.handler = copied,
};

static int __init copyfail_init(void)
{
	return register_kretprobe(&probe);
}

static void __exit copyfail_exit(void)
{
	unregister_kretprobe(&probe);
}

module_init(copyfail_init);
module_exit(copyfail_exit);

MODULE_DESCRIPTION("Lets copies of pages fail, to test what becomes of the pages");
MODULE_LICENSE("GPL");
