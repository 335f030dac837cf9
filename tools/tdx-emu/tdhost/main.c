// SPDX-License-Identifier: GPL-2.0
/*
 * tdhost.ko: TDs without KVM, for tests. Their memory is a privmemfd; this module
 * plays KVM's part towards it.
 */
#include <linux/init.h>
#include <linux/module.h>

#include "ioctl.h"
#include "sys.h"
#include "td.h"

static int __init tdhost_init(void)
{
	int ret;

	ret = tdx_sys_init();
	if (ret)
		return ret;
	ret = host_register();
	if (ret)
		goto exit_sys;
	ret = ioctl_register();
	if (ret)
		goto unregister_host;
	return 0;

unregister_host:
	host_unregister();
exit_sys:
	tdx_sys_exit();
	return ret;
}
module_init(tdhost_init);

static void __exit tdhost_exit(void)
{
	ioctl_unregister();
	host_unregister();
	tdx_sys_exit();
}
module_exit(tdhost_exit);

MODULE_DESCRIPTION("TDs without KVM, for tests of the relocation of private memory");
MODULE_LICENSE("GPL");
