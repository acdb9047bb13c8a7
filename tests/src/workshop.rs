//! Services with sources, for tests that change these.

use crate::{App, build::root, component};
use std::fs;

/// Answers everything with a text that is in it, or in another crate.
const GUEST: &str = r#"
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

wasip2::http::proxy::export!(Guest);
struct Guest;

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(_request: IncomingRequest, out: ResponseOutparam) {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().unwrap();
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().unwrap();
        stream.blocking_write_and_flush(TEXT.as_bytes()).unwrap();
        drop(stream);
        OutgoingBody::finish(body, None).unwrap();
    }
}
"#;

/// The source of a guest that answers everything with this text.
pub fn guest_saying(text: &str) -> String {
    format!("const TEXT: &str = {text:?};\n{GUEST}")
}

/// The source of a crate that has this text for guests.
pub fn crate_with(text: &str) -> String {
    format!("pub const TEXT: &str = {text:?};\n")
}

/// Puts a cargo workspace into the application's folder: each of `guests` is a crate that answers with its own name, each
/// of `users` one that answers with the text of the crate `text`, which is there too. Crates are called after `test`, which
/// no other test may have: all of them are built into one folder, so that what they are made of is compiled once.
pub fn workspace(app: &App, test: &str, guests: &[&str], users: &[&str]) {
    let all: Vec<_> = guests.iter().chain(users).collect();
    let members: Vec<_> = all.iter().map(|name| **name).chain((!users.is_empty()).then_some("text")).collect();
    let text = fs::read_to_string(root().join("tests/guests/Cargo.toml")).expect("it is in the repository");
    let profile = text.split_once("[profile.release]").expect("it has a profile").1;
    app.file(
        "Cargo.toml",
        format!(
            "[workspace]\nresolver = \"3\"\nmembers = {members:?}\n[workspace.dependencies]\nwasip2 = \"=1.0.4\"\n\
             [profile.release]{profile}"
        ),
    );
    for name in ["tests/guests/Cargo.lock", "rust-toolchain.toml"] {
        let to = app.folder().join(name.rsplit('/').next().unwrap_or(name));
        fs::copy(root().join(name), to).expect("it is in the repository");
    }
    // Where the other guests are built, with what these need too.
    component("hello-p2");
    let target = root().join("tests/guests/target");
    fs::create_dir_all(app.folder().join(".cargo")).expect("the application's folder can be written to");
    app.file(".cargo/config.toml", format!("[build]\ntarget-dir = {target:?}\n[net]\noffline = true\n"));
    for name in members {
        let is_text = name == "text" && !users.is_empty();
        fs::create_dir_all(app.folder().join(name).join("src")).expect("the application's folder can be written to");
        let mut crate_file =
            format!("[package]\nname = \"watched-{test}-{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
        if is_text {
            app.file("text/src/lib.rs", crate_with("text"));
        } else {
            crate_file += "[lib]\ncrate-type = [\"cdylib\"]\n[dependencies]\nwasip2.workspace = true\n";
            let uses = users.contains(&name);
            if uses {
                crate_file += &format!("text = {{ path = \"../text\", package = \"watched-{test}-text\" }}\n");
            }
            let source = if uses { format!("use text::TEXT;\n{GUEST}") } else { guest_saying(name) };
            app.file(&format!("{name}/src/lib.rs"), source);
        }
        app.file(&format!("{name}/Cargo.toml"), crate_file);
    }
}
