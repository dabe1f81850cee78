//! The binary `warbler-im`: its exit code, nothing else.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
