// SPDX-License-Identifier: GPL-2.0

#include <linux/kvm_gmem_provider.h>
#include <linux/module.h>

#include "../ffi.h"

int privmemfd_helper_kvm_register(void *symbol,
				  const struct kvm_gmem_provider_ops *ops,
				  const struct kvm_gmem_host_ops **host)
{
	typeof(kvm_gmem_register_provider) *register_provider = symbol;

	return register_provider(ops, host);
}

void privmemfd_helper_kvm_unregister(const struct kvm_gmem_host_ops *host,
				     const struct kvm_gmem_provider_ops *ops)
{
	host->unregister(ops);
}

void privmemfd_helper_kvm_invalidate_start(const struct kvm_gmem_host_ops *host,
					   struct kvm_gmem_bindings *bindings,
					   pgoff_t start, pgoff_t end)
{
	host->invalidate_start(bindings, start, end);
}

void privmemfd_helper_kvm_invalidate_end(const struct kvm_gmem_host_ops *host,
					 struct kvm_gmem_bindings *bindings,
					 pgoff_t start, pgoff_t end)
{
	host->invalidate_end(bindings, start, end);
}

int privmemfd_helper_kvm_relocate(const struct kvm_gmem_host_ops *host,
				  struct kvm_gmem_bindings *bindings,
				  struct kvm_gmem_move *moves, unsigned int nr)
{
	return host->relocate(bindings, moves, nr);
}

void privmemfd_helper_kvm_gmem_bindings_init(struct kvm_gmem_bindings *bindings)
{
	kvm_gmem_bindings_init(bindings);
}

void privmemfd_helper_td_kick(const struct kvm_gmem_td *td)
{
	td->kick(td);
}

void privmemfd_helper_td_hold(const struct kvm_gmem_td *td)
{
	td->hold(td);
}

void privmemfd_helper_td_release(const struct kvm_gmem_td *td)
{
	td->release(td);
}

int privmemfd_register_host(const struct kvm_gmem_host_ops *host,
			    const struct kvm_gmem_provider_ops **ops)
{
	return privmemfd_rust_register_host(host, ops);
}
EXPORT_SYMBOL_FOR_MODULES(privmemfd_register_host, "tdhost");

void privmemfd_unregister_host(const struct kvm_gmem_host_ops *host)
{
	privmemfd_rust_unregister_host(host);
}
EXPORT_SYMBOL_FOR_MODULES(privmemfd_unregister_host, "tdhost");

/* The connection is made when the module is loaded. */
MODULE_SOFTDEP("pre: kvm");
