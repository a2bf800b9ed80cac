//! The `henge` program: one binary, subcommands.

fn main() -> std::process::ExitCode {
    henge::cli::main()
}
