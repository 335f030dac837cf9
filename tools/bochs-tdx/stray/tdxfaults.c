// SPDX-License-Identifier: GPL-2.0
/*
 * tdxfaults.ko - the fault plan of the emulated TDX module
 *
 * Lines written to the parameter "plan" are rules: calls that fail from now on.
 * Reading it tells the rules and how often each has fired. The emulator has a
 * port for that, which user space cannot reach by itself.
 */
#include <linux/io.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/string.h>

#define PORT 0x7d0

static DEFINE_MUTEX(port_lock);

static size_t answer(char *buffer)
{
	size_t n = 0;
	char c;

	while ((c = inb(PORT)) && n < PAGE_SIZE - 1)
		buffer[n++] = c;
	buffer[n] = 0;
	return n;
}

static int plan_set(const char *val, const struct kernel_param *kp)
{
	char *buffer = kmalloc(PAGE_SIZE, GFP_KERNEL);
	const char *line = val;
	int err = 0;

	if (!buffer)
		return -ENOMEM;
	mutex_lock(&port_lock);
	while (*line && !err) {
		const char *end = strchrnul(line, '\n');

		while (line < end)
			outb(*line++, PORT);
		outb('\n', PORT);
		answer(buffer);
		if (!strstarts(buffer, "ok\n"))
			err = -EINVAL;
		if (*line)
			line++;
	}
	mutex_unlock(&port_lock);
	kfree(buffer);
	return err;
}

static int plan_get(char *buffer, const struct kernel_param *kp)
{
	const char *plan;
	size_t n;

	mutex_lock(&port_lock);
	n = answer(buffer);
	mutex_unlock(&port_lock);
	/* The first line is about the last rule. */
	plan = strchrnul(buffer, '\n');
	if (*plan)
		plan++;
	n -= plan - buffer;
	memmove(buffer, plan, n + 1);
	return n;
}

static const struct kernel_param_ops plan_ops = {
	.set = plan_set,
	.get = plan_get,
};

/* Without the emulator the port reads as ones. */
static int __init tdxfaults_init(void)
{
	char *buffer = kmalloc(PAGE_SIZE, GFP_KERNEL);
	int err = 0;

	if (!buffer)
		return -ENOMEM;
	answer(buffer);
	if (!strstarts(buffer, "ok\n") && !strstarts(buffer, "bad\n"))
		err = -ENODEV;
	kfree(buffer);
	return err;
}
module_init(tdxfaults_init);

static void __exit tdxfaults_exit(void)
{
}
module_exit(tdxfaults_exit);

module_param_cb(plan, &plan_ops, NULL, 0600);
MODULE_PARM_DESC(plan, "rules for calls that fail; the rules and their counts");

MODULE_DESCRIPTION("The fault plan of the emulated TDX module");
MODULE_LICENSE("GPL");
