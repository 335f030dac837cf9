// SPDX-License-Identifier: GPL-2.0
/*
 * otherkvm.ko - a KVM whose provider interface is of another version
 *
 * It takes a provider as kvm.ko does, and its own table is longer than this
 * version's. The parameter "providers" tells how many it has.
 */
#include <linux/kvm_gmem_provider.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

static int providers;
module_param(providers, int, 0400);
MODULE_PARM_DESC(providers, "number of providers that are registered");

static void otherkvm_unregister(const struct kvm_gmem_provider_ops *ops)
{
	providers--;
}

static void otherkvm_invalidate(struct kvm_gmem_bindings *bindings,
				pgoff_t start, pgoff_t end)
{
}

static int otherkvm_relocate(struct kvm_gmem_bindings *bindings,
			     struct kvm_gmem_move *moves, unsigned int nr)
{
	return 0;
}

static const struct kvm_gmem_host_ops otherkvm_host_ops = {
	.size			= sizeof(otherkvm_host_ops) + sizeof(void *),
	.unregister		= otherkvm_unregister,
	.invalidate_start	= otherkvm_invalidate,
	.invalidate_end		= otherkvm_invalidate,
	.relocate		= otherkvm_relocate,
};

int kvm_gmem_register_provider(const struct kvm_gmem_provider_ops *ops,
			       const struct kvm_gmem_host_ops **host)
{
	providers++;
	WRITE_ONCE(*host, &otherkvm_host_ops);
	return 0;
}
EXPORT_SYMBOL_GPL(kvm_gmem_register_provider);

MODULE_DESCRIPTION("A KVM of another version, to test that the module is not bound to it");
MODULE_LICENSE("GPL");
