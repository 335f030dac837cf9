// SPDX-License-Identifier: GPL-2.0
/*
 * What user space asks for, see uapi_tdhost.h.
 */
#include <linux/anon_inodes.h>
#include <linux/bitfield.h>
#include <linux/capability.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "ioctl.h"
#include "td.h"
#include "tdx_abi.h"
#include "uapi_tdhost.h"

#define is_reserved_zero(arg) (!memchr_inv((arg)->reserved, 0, sizeof((arg)->reserved)))

static bool is_page_range(const struct td *td, u64 gpa, u64 pages)
{
	u64 index = gpa >> PAGE_SHIFT;

	return PAGE_ALIGNED(gpa) && index <= td->nr_pages && pages <= td->nr_pages - index;
}

static int do_pages(struct td *td, struct tdhost_pages *arg, bool add)
{
	unsigned long index;
	int ret;

	arg->done = 0;
	if (!is_reserved_zero(arg) || !is_page_range(td, arg->gpa, arg->pages) ||
	    (!add && arg->seed))
		return -EINVAL;
	while (arg->done < arg->pages) {
		if (signal_pending(current))
			return -EINTR;
		index = (arg->gpa >> PAGE_SHIFT) + arg->done;
		ret = add ? td_add_page(td, index, arg->seed) : td_fault(td, index);
		if (!ret)
			arg->done++;
		else if (ret != -EAGAIN)
			return ret;
		cond_resched();
	}
	return 0;
}

static int do_run(struct td *td, struct tdhost_run *arg)
{
	arg->report = 0;
	arg->done = 0;
	arg->mismatches = 0;
	arg->mismatch_gpa = 0;
	arg->entries = 0;
	arg->faults = 0;
	if (!is_reserved_zero(arg))
		return -EINVAL;
	return vcpu_run(td, arg);
}

static int do_read(struct td *td, struct tdhost_read *arg)
{
	int ret;

	if (!is_reserved_zero(arg) || arg->gpa % sizeof(u64) ||
	    arg->gpa >> PAGE_SHIFT >= td->nr_pages)
		return -EINVAL;
	if (!td->debug)
		return -EPERM;
	do {
		if (signal_pending(current))
			return -EINTR;
		ret = td_read(td, arg->gpa, &arg->value);
		cond_resched();
	} while (ret == -EAGAIN);
	return ret;
}

static int do_sept(struct td *td, struct tdhost_sept *arg)
{
	unsigned long mirror;
	u64 entry, info;
	int ret;

	if (!is_reserved_zero(arg) || !is_page_range(td, arg->gpa, 1))
		return -EINVAL;
	do {
		if (signal_pending(current))
			return -EINTR;
		ret = td_sept(td, arg->gpa >> PAGE_SHIFT, &entry, &info, &mirror);
		cond_resched();
	} while (ret == -EAGAIN);
	if (ret)
		return ret;
	arg->state = FIELD_GET(TDX_SEPT_STATE, info);
	arg->level = FIELD_GET(TDX_SEPT_LEVEL, info);
	arg->pfn = FIELD_GET(TDX_SEPT_HPA, entry);
	arg->mirror = mirror;
	return 0;
}

static int do_stat(struct td *td, struct tdhost_stat *arg)
{
	const struct td_counters *count = &td->count;
	unsigned long i;

	if (!is_reserved_zero(arg))
		return -EINVAL;
	memset(arg, 0, sizeof(*arg));
	for (i = 0; i < td->nr_pages; i++)
		if (READ_ONCE(td->pfns[i]))
			arg->mapped++;
	arg->batches = atomic64_read(&count->batches);
	arg->moved = atomic64_read(&count->moved);
	arg->refused = atomic64_read(&count->refused);
	arg->kicks = atomic64_read(&count->kicks);
	arg->holds = atomic64_read(&count->holds);
	arg->waits = atomic64_read(&count->waits);
	arg->faults = atomic64_read(&count->faults);
	arg->entries = atomic64_read(&count->entries);
	arg->retries = atomic64_read(&count->retries);
	arg->removed = atomic64_read(&count->removed);
	arg->leaked = td_leaked();
	arg->dead = READ_ONCE(td->dead);
	return 0;
}

/* The largest argument is on the stack. */
union argument {
	struct tdhost_pages pages;
	struct tdhost_run run;
	struct tdhost_read read;
	struct tdhost_sept sept;
	struct tdhost_stat stat;
};

static long td_ioctl(struct file *file, unsigned int cmd, unsigned long address)
{
	void __user *user = (void __user *)address;
	struct td *td = file->private_data;
	union argument arg = {};
	size_t size = 0;
	long ret;

	switch (cmd) {
	case TDHOST_FINALIZE:
		return address ? -EINVAL : td_finalize(td);
	case TDHOST_ADD:
	case TDHOST_AUG:
	case TDHOST_RUN:
	case TDHOST_READ:
	case TDHOST_SEPT:
	case TDHOST_STAT:
		size = _IOC_SIZE(cmd);
		break;
	default:
		return -ENOTTY;
	}
	if (copy_from_user(&arg, user, size))
		return -EFAULT;
	switch (cmd) {
	case TDHOST_ADD:
		ret = do_pages(td, &arg.pages, true);
		break;
	case TDHOST_AUG:
		ret = do_pages(td, &arg.pages, false);
		break;
	case TDHOST_RUN:
		ret = do_run(td, &arg.run);
		break;
	case TDHOST_READ:
		ret = do_read(td, &arg.read);
		break;
	case TDHOST_SEPT:
		ret = do_sept(td, &arg.sept);
		break;
	default:
		ret = do_stat(td, &arg.stat);
	}
	/* What was done is of interest even if the rest has failed. */
	return copy_to_user(user, &arg, size) ? -EFAULT : ret;
}

static int td_file_release(struct inode *inode, struct file *file)
{
	td_destroy(file->private_data);
	return 0;
}

static const struct file_operations td_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = td_ioctl,
	.release = td_file_release,
};

static long device_ioctl(struct file *file, unsigned int cmd, unsigned long address)
{
	struct tdhost_create arg;
	struct td *td;
	int fd;

	if (cmd != TDHOST_CREATE_TD)
		return -ENOTTY;
	if (copy_from_user(&arg, (void __user *)address, sizeof(arg)))
		return -EFAULT;
	if (!is_reserved_zero(&arg) || arg.flags & ~(u64)TDHOST_TD_DEBUG)
		return -EINVAL;
	td = td_create(&arg);
	if (IS_ERR(td))
		return PTR_ERR(td);
	fd = anon_inode_getfd("[tdhost]", &td_fops, td, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		td_destroy(td);
	return fd;
}

static const struct file_operations device_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = device_ioctl,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "tdhost",
	.fops = &device_fops,
	.mode = 0600,
};

int ioctl_register(void)
{
	return misc_register(&device);
}

void ioctl_unregister(void)
{
	misc_deregister(&device);
}
