//! Programs that know OpenAPI.

use std::{env, path::PathBuf};

/// The path of one of them (`schemathesis`), where it is installed: on the PATH, or where `.ci/run` puts it.
///
/// # Panics
///
/// When it is not installed: without it nobody knows whether the shop is as its document says.
pub fn openapi_tool(name: &str) -> PathBuf {
    let on_path = env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    let in_cache = cache.map(|cache| cache.join("wharf/openapi-tools/bin"));
    let found = on_path.chain(in_cache.clone()).map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| {
        let folder = in_cache.as_deref().and_then(|bin| bin.parent()).map(|it| it.display().to_string());
        let folder = folder.unwrap_or_else(|| "a folder".into());
        panic!(
            "`{name}` is not installed; `bash .ci/run` installs it, or by hand: python3 -m venv {folder} && \
             {folder}/bin/pip install -r tests/openapi/requirements.txt"
        )
    })
}
