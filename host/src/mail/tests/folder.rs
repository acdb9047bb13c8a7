//! Mail as files.

use super::{super::folder::Folder, *};
use std::{fs, path::Path};

/// A folder that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wharf-mail-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn deliver(folder: &Folder, subject: &str) {
    let said = Message { bcc: vec![mailbox("eve@example.com")], ..message(subject) };
    folder.deliver(&Arc::new(letter(&said).unwrap())).await.unwrap();
}

fn subject(folder: &Path, name: &str) -> String {
    let content = fs::read(folder.join(name)).unwrap();
    let parsed = mail_parser::MessageParser::default().parse(&content).unwrap();
    // Who looks at the file may see all.
    assert_eq!(parsed.bcc().and_then(|bcc| bcc.first()).and_then(|it| it.address()), Some("eve@example.com"));
    parsed.subject().unwrap().to_owned()
}

#[tokio::test]
async fn letters_lie_in_the_order_of_their_coming_and_the_oldest_go() {
    let scratch = Scratch::new("order");
    let folder = Folder::open(scratch.0.clone()).unwrap().with_bounds(5, u64::MAX);
    fs::write(scratch.0.join("notes.eml"), "somebody else's").unwrap();
    for number in 0..12 {
        deliver(&folder, &format!("number {number}")).await;
    }
    let names = scratch.names();
    assert_eq!(names.len(), 6, "{names:?}");
    let (others, own): (Vec<_>, Vec<_>) = names.iter().partition(|name| *name == "notes.eml");
    assert_eq!(others.len(), 1);
    let subjects: Vec<_> = own.iter().map(|name| subject(&scratch.0, name)).collect();
    assert_eq!(subjects, ["number 7", "number 8", "number 9", "number 10", "number 11"]);
    // Another run goes on with what it finds.
    let again = Folder::open(scratch.0.clone()).unwrap().with_bounds(3, u64::MAX);
    deliver(&again, "again").await;
    let subjects: Vec<_> =
        scratch.names().iter().filter(|name| *name != "notes.eml").map(|name| subject(&scratch.0, name)).collect();
    assert_eq!(subjects, ["number 10", "number 11", "again"]);
}

#[tokio::test]
async fn what_an_earlier_run_left_without_content_goes() {
    let scratch = Scratch::new("empty");
    let folder = Folder::open(scratch.0.clone()).unwrap();
    fs::write(scratch.0.join("20261124T153000.123456Z-0f3a5b1c.eml"), "").unwrap();
    fs::write(scratch.0.join("notes.eml"), "").unwrap();
    deliver(&folder, "the only one").await;
    let names = scratch.names();
    assert_eq!((names.len(), &*names[1]), (2, "notes.eml"), "{names:?}");
    assert_eq!(subject(&scratch.0, &names[0]), "the only one");
}

#[tokio::test]
async fn the_newest_stays_whatever_its_size() {
    let scratch = Scratch::new("size");
    let folder = Folder::open(scratch.0.clone()).unwrap().with_bounds(100, 10);
    for number in 0..3 {
        deliver(&folder, &format!("number {number}")).await;
    }
    let names = scratch.names();
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(subject(&scratch.0, &names[0]), "number 2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_at_the_same_time_have_files_of_their_own() {
    let scratch = Scratch::new("many");
    let folder = Arc::new(Folder::open(scratch.0.clone()).unwrap());
    let all = (0..50).map(|number| {
        let folder = folder.clone();
        tokio::spawn(async move { deliver(&folder, &format!("number {number}")).await })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    let names = scratch.names();
    assert_eq!(names.len(), 50);
    assert!(names.iter().all(|name| name.ends_with(".eml")), "{names:?}");
}

#[tokio::test]
async fn a_folder_that_is_gone_is_a_fault_that_names_it() {
    let scratch = Scratch::new("gone");
    let folder = Folder::open(scratch.0.clone()).unwrap();
    fs::remove_dir(&scratch.0).unwrap();
    let fault = folder.deliver(&Arc::new(letter(&message("s")).unwrap())).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Unreachable);
    assert!(fault.message().contains(scratch.0.to_str().unwrap()), "{fault:?}");
}
