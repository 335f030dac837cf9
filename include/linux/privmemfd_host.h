/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Users of privmemfds in the kernel besides KVM.
 *
 * Such a host keeps guests of its own off pages, in the same way and by the same
 * interface as KVM, see <linux/kvm_gmem_provider.h>. There is at most one.
 */
#ifndef _LINUX_PRIVMEMFD_HOST_H
#define _LINUX_PRIVMEMFD_HOST_H

#include <linux/kvm_gmem_provider.h>

/**
 * privmemfd_register_host - take part in what happens to pages of privmemfds
 * @host: the functions of the host. @unregister is not called. The others are
 *	  called for every privmemfd, which its bindings tell from the others
 *	  (the @bindings of the provider's ops); the host ignores those it has no
 *	  use for. @relocate is called after that of KVM and with its results: it
 *	  may turn %KVM_GMEM_MOVE_COPY into %KVM_GMEM_MOVE_DONE or an errno, and
 *	  leaves anything else alone.
 * @ops: where to store the functions of the provider. @relocate_td, @bindings
 *	 and @get_folio are for hosts; @fops tells the provider's files.
 *
 * What must not change while a host looks at it, e.g. which range of a file it
 * maps where, it changes under the invalidate_lock of the file held exclusive.
 * It holds a reference to each file that it uses.
 *
 * Context: May sleep.
 * Return: 0. -EBUSY if there is one already, -EINVAL if @host is incomplete or of
 * another size.
 */
int privmemfd_register_host(const struct kvm_gmem_host_ops *host,
			    const struct kvm_gmem_provider_ops **ops);

/**
 * privmemfd_unregister_host - the opposite
 * @host: as for privmemfd_register_host()
 *
 * Returns when no function of @host runs any more. The host uses no file by then.
 *
 * Context: May sleep.
 */
void privmemfd_unregister_host(const struct kvm_gmem_host_ops *host);

#endif /* _LINUX_PRIVMEMFD_HOST_H */
