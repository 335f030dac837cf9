// SPDX-License-Identifier: GPL-2.0

#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "../ffi.h"

static int privmemfd_number_show(struct seq_file *m, void *unused)
{
	u64 (*read)(void) = m->private;

	seq_printf(m, "%llu\n", read());

	return 0;
}
DEFINE_SHOW_ATTRIBUTE(privmemfd_number);

struct dentry *privmemfd_helper_debugfs_create_dir(const char *name)
{
	return debugfs_create_dir(name, NULL);
}

void privmemfd_helper_debugfs_create_number(const char *name, struct dentry *dir,
					    u64 (*read)(void))
{
	debugfs_create_file(name, 0444, dir, read, &privmemfd_number_fops);
}

void privmemfd_helper_debugfs_remove(struct dentry *dir)
{
	debugfs_remove(dir);
}
