//! The binary `warbler-im`: its exit code, nothing else.

mod cli;
mod log;

fn main() -> std::process::ExitCode {
    cli::main()
}
