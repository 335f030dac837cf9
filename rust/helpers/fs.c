// SPDX-License-Identifier: GPL-2.0

#include <linux/file.h>
#include <linux/fs.h>
#include <linux/migrate.h>
#include <linux/module.h>
#include <linux/rcupdate.h>

#include "../ffi.h"

int privmemfd_helper_migrate_folio(struct address_space *mapping,
				   struct folio *dst, struct folio *src,
				   enum migrate_mode mode)
{
	struct privmemfd_migrate_hook *hook = mapping->host->i_private;

	return hook->migrate(mapping, dst, src);
}

void privmemfd_helper_pin_module(void)
{
	__module_get(THIS_MODULE);
}

struct file *privmemfd_helper_get_file_active(struct file **f)
{
	return get_file_active(f);
}

/*
 * Without tasks RCU this is RCU, which does not wait for a task that is preempted
 * in our code: kprobes or ftrace bring it.
 */
#if defined(CONFIG_PREEMPTION) && !defined(CONFIG_TASKS_RCU)
#error "a preemptible kernel needs CONFIG_TASKS_RCU, e.g. by CONFIG_KPROBES"
#endif
void privmemfd_helper_synchronize_rcu_tasks(void)
{
	synchronize_rcu_tasks();
}

loff_t privmemfd_helper_i_size_read(const struct inode *inode)
{
	return i_size_read(inode);
}

void privmemfd_helper_i_size_write(struct inode *inode, loff_t size)
{
	i_size_write(inode, size);
}
