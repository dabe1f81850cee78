//! Where the project's own programs are.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Names the directory with the programs, when they are not beside the running one.
const DIRECTORY_VARIABLE: &str = "WARBLER_BIN_DIR";

/// Finds `warbler`, `warbler-im` or `warbler-bench`: in the directory that `WARBLER_BIN_DIR` names, else beside the
/// running program, else in the directory above it (tests run from `target/PROFILE/deps`), so that a program is
/// always paired with others of its own build profile.
///
/// # Errors
/// When it is in none of these places: the error says how to build it.
pub fn binary(name: &str) -> Result<PathBuf> {
    if let Some(directory) = env::var_os(DIRECTORY_VARIABLE) {
        return find(name, &[PathBuf::from(directory)]);
    }
    let running = env::current_exe().context("cannot tell where the running program is")?;
    find(name, &running.ancestors().skip(1).take(2).map(Path::to_owned).collect::<Vec<_>>())
}

fn find(name: &str, directories: &[PathBuf]) -> Result<PathBuf> {
    if let Some(found) = directories.iter().map(|directory| directory.join(name)).find(|path| path.is_file()) {
        return Ok(found);
    }
    let looked = directories.iter().map(|directory| directory.display().to_string()).collect::<Vec<_>>().join(" and ");
    let package = match name {
        "warbler" => "proxy",
        "warbler-im" => "backend",
        "warbler-bench" => "bench",
        _ => bail!("`{name}` is none of the project's programs, and it is not in {looked}"),
    };
    let profile = if looked.contains("/release") { " --release" } else { "" };
    bail!(
        "`{name}` is not in {looked}: build it with `cargo build{profile} -p {package} --bin {name}`, or name its directory in {DIRECTORY_VARIABLE}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_comes_with_the_command_that_builds_it() {
        let error = find("warbler", &["/nowhere/release".into()]).unwrap_err().to_string();
        assert!(error.contains("cargo build --release -p proxy --bin warbler"), "{error}");
        let error = find("nginx", &["/nowhere".into()]).unwrap_err().to_string();
        assert!(error.contains("none of the project's programs"), "{error}");
    }

    #[test]
    fn a_program_is_found_where_it_is() {
        let workspace = crate::harness::Workspace::new().unwrap();
        let path = workspace.write("warbler-im", "").unwrap();
        assert_eq!(find("warbler-im", &["/nowhere".into(), workspace.root().to_owned()]).unwrap(), path);
    }
}
