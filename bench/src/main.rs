//! The process `warbler-bench`: its exit code, nothing else.

fn main() -> std::process::ExitCode {
    bench::cli::run()
}
