use super::{section::put_slice, *};
use proptest::prelude::*;
use std::{os::unix::fs::PermissionsExt, path::Path};

/// What `wasmsign2` 0.2.8 made of [`note`] with the key of seven: without a key id, and with its own kind of one.
const FOREIGN: [&str; 2] = [
    "0061736d0d0001000075097369676e61747572650101010166015218fc8938e59591d0f7b7b3c90718c0a89ea76236fd672a270cf24d9b02d608\
     01430001402ab216389ba5206d09b62d83138b050943614e1904e071dacbddb7a8afc95fb31a7b47003bfeb125a95fd005507def604202e78c87\
     e98efb83a2b887a1bd140b0008046e6f7465686579",
    "0061736d0d000100008101097369676e61747572650101010172015218fc8938e59591d0f7b7b3c90718c0a89ea76236fd672a270cf24d9b02d6\
     08014f0c221c8d1f818a2a696a8b0fe701402ab216389ba5206d09b62d83138b050943614e1904e071dacbddb7a8afc95fb31a7b47003bfeb125\
     a95fd005507def604202e78c87e98efb83a2b887a1bd140b0008046e6f7465686579",
];

fn key(of: u8) -> PrivateKey {
    PrivateKey::of_seed(&[of; 32]).expect("any 32 bytes are a seed")
}

fn trust(keys: &[&PrivateKey]) -> Trust {
    Trust::new("order", keys.iter().map(|key| key.public()).collect(), "services.order.signed-by")
}

/// A component that holds nothing but this note.
fn component(note: &[u8]) -> Vec<u8> {
    let mut section = Vec::new();
    put_slice(&mut section, b"note");
    section.extend_from_slice(note);
    let mut wasm = b"\0asm\x0d\0\x01\0\0".to_vec();
    put_slice(&mut wasm, &section);
    wasm
}

fn note() -> Vec<u8> {
    component(b"hey")
}

fn signed(note: &[u8], key: &PrivateKey) -> Vec<u8> {
    sign(&component(note), key).expect("it is a component")
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal");
    text.as_bytes().chunks(2).map(byte).collect()
}

fn refused(trust: &Trust, wasm: &[u8]) -> String {
    trust.check(wasm).expect_err("it is not to be trusted").to_string()
}

#[test]
fn who_is_trusted_is_taken_and_nobody_else() {
    let (one, other) = (key(1), key(2));
    let wasm = signed(b"hey", &one);
    assert_eq!(trust(&[&one]).check(&wasm), Ok(()));
    assert_eq!(trust(&[&other, &one]).check(&wasm), Ok(()));
    assert_eq!(Trust::everybody().check(b"anything"), Ok(()));
    let (one, other) = (one.public(), other.public());
    let told = |trust: &Trust, wasm: &[u8]| {
        refused(trust, wasm).replace(&one.to_string(), "ONE").replace(&other.to_string(), "OTHER")
    };
    assert_eq!(
        told(&trust(&[&key(2)]), &wasm),
        "service `order`: the component is signed by ONE, and `services.order.signed-by` wants OTHER; sign it with such a \
         key as well (`wharf sign FILE --key KEYFILE`), or name the one that signed it, if it is to be trusted"
    );
    assert_eq!(
        told(&trust(&[&key(1), &key(2)]), &note()),
        "service `order`: the component has no signature, and `services.order.signed-by` wants one by ONE or OTHER; sign it \
         with `wharf sign FILE --key KEYFILE`"
    );
    let mut changed = wasm.clone();
    *changed.last_mut().expect("it is long") ^= 1;
    assert_eq!(
        told(&trust(&[&key(1)]), &changed),
        "service `order`: the component was changed after ONE signed it, and `services.order.signed-by` wants it as ONE \
         signed it; take the one that was signed, or sign this one with `wharf sign FILE --key KEYFILE`"
    );
}

#[test]
fn what_is_no_component_is_refused_before_anything_else() {
    let trust = trust(&[&key(1)]);
    for (wasm, said) in [
        (&b"\0asm\x01\0\0\0"[..], "core module"),
        (b"", "not a WebAssembly component"),
        (b"\0asm\x0d\0\x01", "not a WebAssembly component"),
        (b"\0asm\x0d\0\x01\0", "has no signature"),
        (b"\0asm\x0d\0\x01\0\0\x0e\x09signature\x02\x01\x01\x00", "version"),
        (b"\0asm\x0d\0\x01\0\0\x0e\x09signature\x01\x01\x01\x01", "broken"),
    ] {
        let error = refused(&trust, wasm);
        assert!(error.contains(said), "{said:?} is not in {error}");
    }
}

#[test]
fn keys_are_changed_by_signing_with_both() {
    let (old, new) = (key(1), key(2));
    let first = signed(b"hey", &old);
    let both = sign(&first, &new).expect("it is a component");
    assert_eq!(signers(&both, &[]).map(|it| it.valid), Ok(vec![old.public(), new.public()]));
    for trusted in [&old, &new] {
        assert_eq!(trust(&[trusted]).check(&both), Ok(()));
    }
    assert_eq!(sign(&both, &old), Err(SignError::Signed(old.public())));
    // What was signed before it was changed is worth nothing, and goes.
    let mut changed = both;
    *changed.last_mut().expect("it is long") ^= 1;
    let again = sign(&changed, &new).expect("it is a component");
    assert_eq!(signers(&again, &[]), Ok(Signers { valid: vec![new.public()], ..Signers::default() }));
}

#[test]
fn what_the_proposals_tool_signs_is_taken() {
    for text in FOREIGN {
        let wasm = unhex(text);
        assert_eq!(trust(&[&key(1), &key(7)]).check(&wasm), Ok(()));
        // It does not tell its key, so nobody can say whose it is.
        let error = refused(&trust(&[&key(1)]), &wasm);
        assert!(error.contains("is signed by keys that it does not tell"), "{error}");
    }
}

#[test]
fn a_signature_of_a_part_is_none_of_the_whole() {
    let key = key(1);
    let whole = signed(b"hey", &key);
    let parts = section::Parts::of(&whole).expect("a component");
    // The same set, with the hash of something else before the right one: all hashes are signed, and both are told.
    use sha2::{Digest, Sha256};
    let hashes = [Sha256::digest(b"other"), Sha256::digest(parts.content)].concat();
    let section = signature::section_of(&hashes, &key);
    let error = refused(&trust(&[&key]), &parts.with(&section));
    assert!(error.contains("was changed after"), "{error}");
}

#[test]
fn every_bit_counts() {
    let key = key(1);
    let trust = trust(&[&key]);
    let wasm = signed(b"what is in it", &key);
    for at in 0..wasm.len() * 8 {
        let mut flipped = wasm.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        assert!(trust.check(&flipped).is_err(), "bit {at} of {} may change", wasm.len() * 8);
    }
    for length in 0..wasm.len() {
        assert!(trust.check(&wasm[..length]).is_err(), "{length} bytes of {} do", wasm.len());
    }
}

#[test]
fn a_false_signature_spoils_the_good_ones() {
    let (good, bad) = (key(1), key(2));
    let wasm = sign(&signed(b"hey", &bad), &good).expect("it is a component");
    let at = wasm.windows(64).position(|bytes| bytes == signature_of(&wasm, &bad)).expect("it is there");
    for byte in at..at + 64 {
        let mut spoilt = wasm.clone();
        spoilt[byte] ^= 0x40;
        assert!(refused(&trust(&[&good]), &spoilt).contains("one of them is false"));
    }
}

/// The signature by this key of what is in a component.
fn signature_of(wasm: &[u8], key: &PrivateKey) -> [u8; 64] {
    let content = section::Parts::of(wasm).expect("a component").content;
    signature::bare(content, key)
}

#[test]
fn a_signature_is_of_one_component() {
    let key = key(1);
    let (one, other) = (signed(b"one", &key), signed(b"two", &key));
    let of = |wasm| section::Parts::of(wasm).expect("a component");
    let swapped = of(&other).with(of(&one).signatures.expect("it is signed"));
    assert!(refused(&trust(&[&key]), &swapped).contains("was changed after"));
}

#[test]
fn a_key_is_kept_in_a_file_of_its_own() {
    let folder = std::env::temp_dir().join(format!("wharf-keys-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&folder).expect("a temporary folder");
    let path = folder.join("deploy.pem");
    let key = PrivateKey::generate().expect("there is randomness");
    key.write(&path).expect("it can be written");
    assert_eq!(path.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);
    assert_eq!(PrivateKey::read(&path).expect("it can be read").public(), key.public());
    let error = PrivateKey::generate().expect("there is randomness").write(&path).expect_err("one is there");
    assert!(matches!(error, KeyError::Taken(_)), "{error}");
    assert_eq!(PrivateKey::read(&path).expect("it is as it was").public(), key.public());
    std::fs::write(&path, key.public().to_string()).expect("it can be written");
    assert!(matches!(PrivateKey::read(&path), Err(KeyError::NotPrivate(_))));
    assert!(matches!(PrivateKey::read(Path::new("/no/such/key")), Err(KeyError::Unreadable { .. })));
    assert!(!format!("{key:?}").contains("PRIVATE"), "{key:?}");
    std::fs::remove_dir_all(&folder).expect("it is ours");
}

#[test]
fn openssls_keys_are_keys() {
    // `openssl genpkey -algorithm ed25519`, and `openssl pkey -pubout` of it.
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH\n-----END PRIVATE KEY-----\n";
    let parsed = PrivateKey::parse(pem.as_bytes()).expect("it is a key");
    assert_eq!(parsed.public(), key(7).public());
    assert_eq!(parsed.public().to_string(), "ed25519:6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=");
}

#[test]
fn public_keys_are_read_as_they_are_shown() {
    let shown = key(1).public().to_string();
    assert_eq!(shown.parse::<PublicKey>().expect("it was shown"), key(1).public());
    for text in
        ["", "ed25519:", &shown[8..], &shown[..shown.len() - 1], &format!("{shown}="), "rsa:AAAA", "ed25519:AAAA"]
    {
        assert!(matches!(text.parse::<PublicKey>(), Err(KeyError::NotPublic)), "{text:?}");
    }
}

/// That those keys are refused has a reason: a signature that anybody can write down is good for some messages.
#[test]
fn a_key_by_which_everybody_could_sign_is_refused() {
    let mut forged = [0; 64];
    forged[0] = 1;
    let mut worthless = 0;
    for point in key::SMALL_ORDER {
        for sign in [0, 0x80] {
            let mut point = point;
            point[31] |= sign;
            let public = PublicKey::new(point);
            worthless += usize::from((0..=255_u8).any(|message| public.verifies(&[message], &forged)));
            assert!(matches!(public.to_string().parse::<PublicKey>(), Err(KeyError::Worthless)), "{public}");
        }
    }
    assert!(worthless > 0, "no such key makes forged signatures valid, so none need be refused");
}

proptest! {
    #[test]
    fn what_was_changed_in_any_way_is_refused(
        note in prop::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
        cut in 0_usize..8,
        piece in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let key = key(1);
        let trust = trust(&[&key]);
        let wasm = signed(&note, &key);
        prop_assert_eq!(trust.check(&wasm), Ok(()));
        let at = at.index(wasm.len());
        let mut changed = wasm.clone();
        changed.splice(at..(at + cut).min(wasm.len()), piece);
        prop_assert_eq!(trust.check(&changed).is_ok(), changed == wasm);
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), prefix in 0_usize..3) {
        let key = key(1);
        let section = [&b"\0asm\x0d\0\x01\0"[..], b"\0\x7f\x09signature\x01\x01\x01"][..prefix].concat();
        let wasm = [section, bytes].concat();
        prop_assert!(trust(&[&key]).check(&wasm).is_err());
        let _ = sign(&wasm, &key);
    }
}
