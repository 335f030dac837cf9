// SPDX-License-Identifier: GPL-2.0
/*
 * Collects what modules count that were compiled with -fprofile-arcs by clang, on
 * a kernel without CONFIG_GCOV_KERNEL: that option changes every object of the
 * kernel, and a kernel just for that takes long to build. Modules that are loaded
 * after this one have their counters in debugfs, in the file count: for each object
 * the length of its name, the name, the length of the data and the data, which is
 * in the format of gcov. What a module has counted goes with it.
 */

#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/kallsyms.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "count.h"

#define GCDA_MAGIC		0x67636461
#define GCDA_TAG_FUNCTION	0x01000000
#define GCDA_TAG_COUNTERS	0x01a10000

/* One object file: tells all it has, by the functions below. */
struct object {
	struct list_head entry;
	struct module *mod;
	callback_t write;
};

struct output {
	size_t size;
	char data[];
};

static DEFINE_MUTEX(lock);
static LIST_HEAD(objects);
/* Whose constructors are being called. */
static struct module *registering;
/* Where the data of an open file goes; NULL while its size is found. */
static char *target;
static size_t position;
static size_t length_at;

static void put(const void *data, size_t size)
{
	if (target)
		memcpy(target + position, data, size);
	position += size;
}

static void put_u32(u32 value)
{
	put(&value, sizeof(value));
}

void llvm_gcov_init(callback_t write, callback_t reset)
{
	struct object *object = kzalloc_obj(*object);

	if (!object)
		return;
	object->mod = registering;
	object->write = write;
	list_add_tail(&object->entry, &objects);
}
EXPORT_SYMBOL_GPL(llvm_gcov_init);

void llvm_gcda_start_file(const char *name, u32 version, u32 checksum)
{
	put_u32(strlen(name));
	put(name, strlen(name));
	length_at = position;
	put_u32(0);
	put_u32(GCDA_MAGIC);
	put_u32(version);
	put_u32(checksum);
}
EXPORT_SYMBOL_GPL(llvm_gcda_start_file);

void llvm_gcda_emit_function(u32 ident, u32 checksum, u32 cfg_checksum)
{
	put_u32(GCDA_TAG_FUNCTION);
	put_u32(3);
	put_u32(ident);
	put_u32(checksum);
	put_u32(cfg_checksum);
}
EXPORT_SYMBOL_GPL(llvm_gcda_emit_function);

void llvm_gcda_emit_arcs(u32 nr, u64 *counters)
{
	put_u32(GCDA_TAG_COUNTERS);
	put_u32(nr * 2);
	put(counters, nr * sizeof(*counters));
}
EXPORT_SYMBOL_GPL(llvm_gcda_emit_arcs);

void llvm_gcda_summary_info(void)
{
}
EXPORT_SYMBOL_GPL(llvm_gcda_summary_info);

void llvm_gcda_end_file(void)
{
	u32 size;

	/* No tag, no length: the end. */
	put_u32(0);
	put_u32(0);
	size = position - length_at - sizeof(size);
	if (target)
		memcpy(target + length_at, &size, sizeof(size));
}
EXPORT_SYMBOL_GPL(llvm_gcda_end_file);

/* The compiler leaves a constructor in each object, which the kernel doesn't call. */
static void register_objects(struct module *mod)
{
	struct mod_kallsyms *symbols;
	unsigned int i;

	registering = mod;
	/* Nothing changes the symbols before the end of the module's init. */
	symbols = rcu_dereference_protected(mod->kallsyms, true);
	for (i = 0; i < symbols->num_symtab; i++) {
		const typeof(symbols->symtab[0]) *symbol = &symbols->symtab[i];

		if (!strcmp(symbols->strtab + symbol->st_name, "__llvm_gcov_init"))
			((callback_t)kallsyms_symbol_value(symbol))();
	}
}

static void forget_objects(struct module *mod)
{
	struct object *object, *next;

	list_for_each_entry_safe(object, next, &objects, entry) {
		if (object->mod != mod)
			continue;
		list_del(&object->entry);
		kfree(object);
	}
}

static int module_event(struct notifier_block *nb, unsigned long event, void *data)
{
	mutex_lock(&lock);
	switch (event) {
	case MODULE_STATE_COMING:
		register_objects(data);
		break;
	/* Also of a module whose init has failed. */
	case MODULE_STATE_GOING:
		forget_objects(data);
		break;
	}
	mutex_unlock(&lock);
	return NOTIFY_OK;
}

static struct notifier_block module_notifier = {
	.notifier_call = module_event,
};

static void write_all(char *to)
{
	struct object *object;

	target = to;
	position = 0;
	list_for_each_entry(object, &objects, entry)
		object->write();
}

static int count_open(struct inode *inode, struct file *file)
{
	struct output *output;

	mutex_lock(&lock);
	write_all(NULL);
	output = vmalloc(sizeof(*output) + position);
	if (output) {
		output->size = position;
		write_all(output->data);
	}
	mutex_unlock(&lock);
	file->private_data = output;
	return output ? 0 : -ENOMEM;
}

static ssize_t count_read(struct file *file, char __user *to, size_t size, loff_t *at)
{
	struct output *output = file->private_data;

	return simple_read_from_buffer(to, size, at, output->data, output->size);
}

static int count_release(struct inode *inode, struct file *file)
{
	vfree(file->private_data);
	return 0;
}

static const struct file_operations count_fops = {
	.owner		= THIS_MODULE,
	.open		= count_open,
	.read		= count_read,
	.release	= count_release,
	.llseek		= default_llseek,
};

static int __init count_init(void)
{
	int err = register_module_notifier(&module_notifier);

	if (!err)
		debugfs_create_file("count", 0400, NULL, NULL, &count_fops);
	return err;
}
module_init(count_init);

/* There is no way out: other modules call the functions above. */
MODULE_DESCRIPTION("Counters of modules that were compiled to count their lines");
MODULE_LICENSE("GPL");
