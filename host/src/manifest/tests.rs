use super::*;
#[test]
fn the_example_is_valid() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../wharf.toml"));
    let m = Manifest::load(path).unwrap_or_else(|errors| panic!("{errors}"));
    println!("{m:#?}");
}
