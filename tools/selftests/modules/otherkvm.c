// SPDX-License-Identifier: GPL-2.0
/*
 * otherkvm.ko - a KVM whose provider interface is of another version
 *
 * Its table for providers has one entry more, and it refuses those that do not
 * know that, as kvm.ko does.
 */
#include <linux/errno.h>
#include <linux/kvm_gmem_provider.h>
#include <linux/module.h>

int kvm_gmem_register_provider(const struct kvm_gmem_provider_ops *ops,
			       const struct kvm_gmem_host_ops **host)
{
	if (ops->host_size != sizeof(struct kvm_gmem_host_ops) + sizeof(void (*)(void)))
		return -EINVAL;
	return -EBUSY;
}
EXPORT_SYMBOL_GPL(kvm_gmem_register_provider);

MODULE_DESCRIPTION("A KVM of another version, to test that the module does without it");
MODULE_LICENSE("GPL");
