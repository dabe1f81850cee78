//! The binary `warbler`: see [`proxy`].

/// jemalloc gives memory back after a mass disconnect, with its decay times compiled in; glibc and mimalloc keep it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[expect(unsafe_code, reason = "jemalloc reads its settings from a symbol of this name")]
// SAFETY: no other symbol has this name; jemalloc reads it as a NUL-terminated string, and it is one.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8; 60] = b"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

fn main() -> std::process::ExitCode {
    proxy::cli::main()
}
