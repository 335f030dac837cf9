/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What rust/ffi.rs sees of C beyond kernel::bindings, and the prototypes of
 * rust/helpers/: shared by bindgen and the helpers, so that drift between the
 * two does not compile.
 */
#ifndef _PRIVMEMFD_FFI_H
#define _PRIVMEMFD_FFI_H

#include <linux/anon_inodes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/kvm_gmem_provider.h>
#include <linux/memory.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/privmemfd_host.h>
#include <linux/folio_batch.h>
#include <uapi/linux/privmemfd.h>

#ifdef __BINDGEN__
/* Macros with casts, which bindgen evaluates only this way. */
const unsigned long PRIVMEMFD_PAGES_PER_SECTION = PAGES_PER_SECTION;
const gfp_t PRIVMEMFD_GFP_MOVABLE = GFP_HIGHUSER_MOVABLE;
const gfp_t PRIVMEMFD_GFP_PINNED = GFP_HIGHUSER;
const gfp_t PRIVMEMFD_GFP_THISNODE = __GFP_THISNODE | __GFP_NOWARN |
				     __GFP_RETRY_MAYFAIL;
#endif

/*
 * Start of the object at inode.i_private of a private file. Rust does not
 * implement migrate_folio itself, because CFI hashes the type of its last
 * parameter by the name of the enum.
 */
struct privmemfd_migrate_hook {
	int (*migrate)(struct address_space *mapping, struct folio *dst,
		       struct folio *src);
};

/* Where a folio was seen. */
struct privmemfd_sighting {
	const struct address_space *mapping;
	pgoff_t index;
	unsigned long pfn;
};

/*
 * Where new folios come from: a node, or NUMA_NO_NODE for the task's memory policy;
 * any of these nodes if it has no memory, or of all if none is named.
 */
struct privmemfd_placement {
	gfp_t gfp;
	int nid;
	nodemask_t nodes;
};

/* Registers of a SEAMCALL. */
struct privmemfd_seamcall {
	u64 leaf;
	u64 rcx;
	u64 rdx;
	u64 r8;
};

/* helpers/bug.c */
bool privmemfd_helper_warn_on(bool condition);

/* helpers/capability.c */
bool privmemfd_helper_capable(int cap);

/* helpers/debugfs.c */
struct dentry *privmemfd_helper_debugfs_create_dir(const char *name);
void privmemfd_helper_debugfs_create_number(const char *name, struct dentry *dir,
					    u64 (*read)(void));
void privmemfd_helper_debugfs_remove(struct dentry *dir);

/* helpers/fs.c */
int privmemfd_helper_migrate_folio(struct address_space *mapping,
				   struct folio *dst, struct folio *src,
				   enum migrate_mode mode);
struct file *privmemfd_helper_get_file_active(struct file **f);
void privmemfd_helper_pin_module(void);
void privmemfd_helper_synchronize_rcu_tasks(void);
loff_t privmemfd_helper_i_size_read(const struct inode *inode);
void privmemfd_helper_i_size_write(struct inode *inode, loff_t size);

/* helpers/kvm.c */
int privmemfd_helper_kvm_register(void *symbol,
				  const struct kvm_gmem_provider_ops *ops,
				  const struct kvm_gmem_host_ops **host);
void privmemfd_helper_kvm_unregister(const struct kvm_gmem_host_ops *host,
				     const struct kvm_gmem_provider_ops *ops);
void privmemfd_helper_kvm_invalidate_start(const struct kvm_gmem_host_ops *host,
					   struct kvm_gmem_bindings *bindings,
					   pgoff_t start, pgoff_t end);
void privmemfd_helper_kvm_invalidate_end(const struct kvm_gmem_host_ops *host,
					 struct kvm_gmem_bindings *bindings,
					 pgoff_t start, pgoff_t end);
int privmemfd_helper_kvm_relocate(const struct kvm_gmem_host_ops *host,
				  struct kvm_gmem_bindings *bindings,
				  struct kvm_gmem_move *moves, unsigned int nr);
void privmemfd_helper_kvm_gmem_bindings_init(struct kvm_gmem_bindings *bindings);

void privmemfd_helper_td_kick(const struct kvm_gmem_td *td);
void privmemfd_helper_td_hold(const struct kvm_gmem_td *td);
void privmemfd_helper_td_release(const struct kvm_gmem_td *td);

/* kvm.rs, for helpers/kvm.c */
int privmemfd_rust_register_host(const struct kvm_gmem_host_ops *host,
				 const struct kvm_gmem_provider_ops **ops);
void privmemfd_rust_unregister_host(const struct kvm_gmem_host_ops *host);

/* helpers/mm.c */
void privmemfd_helper_clear_folio(struct folio *folio);
void privmemfd_helper_cond_resched(void);
void privmemfd_helper_filemap_invalidate_lock(struct address_space *mapping);
void privmemfd_helper_filemap_invalidate_unlock(struct address_space *mapping);
void privmemfd_helper_filemap_invalidate_lock_shared(struct address_space *mapping);
int privmemfd_helper_filemap_invalidate_trylock_shared(struct address_space *mapping);
void privmemfd_helper_filemap_invalidate_unlock_shared(struct address_space *mapping);
struct folio *privmemfd_helper_filemap_lock_folio(struct address_space *mapping,
						  pgoff_t index);
unsigned int privmemfd_helper_alloc_folios(struct privmemfd_placement *from, unsigned int nr,
					   struct folio **folios);
void privmemfd_helper_away(unsigned long pfn, struct privmemfd_placement *away);
void *privmemfd_helper_folio_address(const struct folio *folio);
void privmemfd_helper_folio_batch_init(struct folio_batch *fbatch);
void privmemfd_helper_folio_clear_active(struct folio *folio);
void privmemfd_helper_folio_clear_unevictable(struct folio *folio);
void privmemfd_helper_folio_get(struct folio *folio);
void privmemfd_helper_folio_lock(struct folio *folio);
void privmemfd_helper_folio_mark_uptodate(struct folio *folio);
int privmemfd_helper_folio_nid(const struct folio *folio);
unsigned long privmemfd_helper_folio_pfn(const struct folio *folio);
void privmemfd_helper_folio_put(struct folio *folio);
bool privmemfd_helper_folio_test_reserved(const struct folio *folio);
void privmemfd_helper_test_folio_set_kept(struct folio *folio, bool kept);
bool privmemfd_helper_has_failed(unsigned long pfn);
struct folio *privmemfd_helper_lock_folio_of(unsigned long pfn,
					     const struct address_space_operations *ops);
struct folio *privmemfd_helper_trylock_folio(unsigned long pfn,
					     const struct address_space_operations *ops);
bool privmemfd_helper_find_folio(unsigned long *pfn, unsigned long end,
				 const struct address_space_operations *ops,
				 struct privmemfd_sighting *found);
struct folio *privmemfd_helper_trylock_folio_in(unsigned long pfn,
						const struct address_space *mapping);
bool privmemfd_helper_folio_mark_failed(struct folio *folio);
void privmemfd_helper_test_folio_unmark_failed(struct folio *folio);
bool privmemfd_helper_folio_is_unusable(const struct folio *folio);
bool privmemfd_helper_folio_has_usable_content(const struct folio *folio);
void privmemfd_helper_folio_set_dirty(struct folio *folio);
bool privmemfd_helper_folio_test_uptodate(const struct folio *folio);
unsigned int privmemfd_helper_folio_zonenum(const struct folio *folio);
void privmemfd_helper_mapping_set_gfp_mask(struct address_space *mapping, gfp_t mask);
void privmemfd_helper_mapping_set_inaccessible(struct address_space *mapping);
void privmemfd_helper_mapping_set_unevictable(struct address_space *mapping);
void privmemfd_helper_failing_begin(void);
void privmemfd_helper_failing_end(void);
void privmemfd_helper_failing_sync(void);
int privmemfd_helper_memory_failure(unsigned long pfn);
bool privmemfd_helper_node_online(int nid);
int privmemfd_helper_register_memory_notifier(struct notifier_block *nb);
void privmemfd_helper_unregister_memory_notifier(struct notifier_block *nb);

/* helpers/power.c */
int privmemfd_helper_register_pm_notifier(void);
void privmemfd_helper_unregister_pm_notifier(void);

/* power.rs, for helpers/power.c */
int privmemfd_rust_hibernation_prepare(void);
void privmemfd_rust_hibernation_over(void);

/* helpers/slot.c */
int privmemfd_helper_slots_read_lock(void);
void privmemfd_helper_slots_read_unlock(int index);
void privmemfd_helper_slots_synchronize(void);

/* helpers/tdx.c */
void privmemfd_helper_flush_folio(struct folio *folio);
u64 privmemfd_helper_seamcall(struct privmemfd_seamcall *regs);
u64 privmemfd_helper_with_keyid(u64 hpa, u16 hkid);

/* helpers/trace.c */
void privmemfd_helper_trace_create(u64 ino, u64 size, u64 flags, int node);
void privmemfd_helper_trace_bind(u64 ino, const void *vm, pgoff_t start, pgoff_t nr);
void privmemfd_helper_trace_unbind(u64 ino, const void *vm, pgoff_t start, pgoff_t nr);
bool privmemfd_helper_trace_relocate_enabled(void);
void privmemfd_helper_trace_relocate_begin(u64 ino, pgoff_t index, unsigned long from,
					   unsigned long to, unsigned int cause);
void privmemfd_helper_trace_relocate_end(u64 ino, pgoff_t index, unsigned int cause,
					 unsigned int backend, int result,
					 unsigned int refusal, u64 ns);

#endif /* _PRIVMEMFD_FFI_H */
