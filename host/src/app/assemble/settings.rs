//! What services read by `wasi:config`: their configuration and their secrets.

use crate::manifest::{self, Manifest, ManifestErrors, Placed, Secret, SecretError};
use std::collections::BTreeMap;

/// What a service reads, by key. All of it is treated as secret, since some of it is.
pub(in crate::app) type Settings = BTreeMap<String, Secret>;

/// What a service reads, fetched from where it is kept.
pub(in crate::app) fn configuration(
    manifest: &Manifest,
    service: &manifest::Service,
) -> Result<Settings, ManifestErrors> {
    let config = &service.config;
    let secrets = service.secrets.resolve(|key| config.contains_key(key));
    let mut all = secrets.map_err(|error| manifest.error_at(&error, &*error))?;
    all.extend(config.iter().map(|(key, value)| (key.clone(), Secret::new(value.as_str()))));
    Ok(all)
}

/// What a service is to read from now on, whose secrets may have changed: what can't be had now stays as it is at present.
pub(in crate::app) fn rotated(service: &manifest::Service, present: &Settings) -> (Settings, Vec<Placed<SecretError>>) {
    let (config, secrets) = (&service.config, &service.secrets);
    let (mut troubles, mut named) = (Vec::new(), Settings::new());
    for (key, secret) in &secrets.named {
        let now = match secret.resolve_again() {
            Some(Ok(value)) => Some(value),
            Some(Err(error)) => {
                troubles.push(secret.with(error));
                None
            }
            None => None,
        };
        named.extend(now.or_else(|| present.get(key).cloned()).map(|value| (key.clone(), value)));
    }
    let mut all = named.clone();
    if let Err(error) = secrets.resolve_folders(&mut all, |key| config.contains_key(key)) {
        troubles.push(error);
        // A folder is taken as a whole.
        all = present.clone();
        all.extend(named);
    }
    let config = present.iter().filter(|(key, _)| config.contains_key(*key));
    all.extend(config.map(|(key, value)| (key.clone(), value.clone())));
    (all, troubles)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path};

    fn shown(settings: &Settings) -> Vec<String> {
        settings.iter().map(|(key, value)| format!("{key}={}", value.expose())).collect()
    }

    #[test]
    fn what_can_not_be_had_any_more_stays_and_what_changed_is_new() {
        let folder = std::env::temp_dir().join(format!("wharf-settings-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(folder.join("more")).expect("a temporary folder");
        let put = |name: &str, text: &str| fs::write(folder.join(name), text).expect("it can be written");
        let gone = |name: &str| fs::remove_file(folder.join(name)).expect("it is there");
        put("one", "1");
        put("two", "2");
        put("more/three", "3");
        put("more/four", "4");
        let text = r#"
            [app]
            name = "shop"
            [services.a]
            component = "a.wasm"
            config = { plain = "p" }
            secrets = ["folder:more", { one = "file:one", two = "file:two", path = "env:PATH" }]
        "#;
        let manifest = Manifest::parse(text, &folder.join("wharf.toml")).expect("it is valid");
        let service = &manifest.services["a"];
        let first = configuration(&manifest, service).expect("all are there");
        let path = format!("path={}", first["path"].expose());
        let all = |rest: &[&str]| {
            let mut all: Vec<_> =
                rest.iter().map(ToString::to_string).chain([path.clone(), "plain=p".into()]).collect();
            all.sort();
            all
        };
        assert_eq!(shown(&first), all(&["one=1", "two=2", "three=3", "four=4"]));

        put("one", "I");
        gone("two");
        put("more/three", "III");
        gone("more/four");
        let (second, troubles) = rotated(service, &first);
        assert_eq!(shown(&second), all(&["one=I", "two=2", "three=III"]));
        let told: Vec<_> = troubles.iter().map(|it| (it.key.as_str(), it.value.to_string())).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].0 == "services.a.secrets.two" && told[0].1.contains("cannot be read"), "{told:?}");

        // One that is wrong holds up its folder and nothing else.
        put("one", "i");
        put("more/three", "iii");
        put("more/five", "");
        let (third, troubles) = rotated(service, &second);
        assert_eq!(shown(&third), all(&["one=i", "two=2", "three=III"]));
        assert_eq!(troubles.len(), 2, "{troubles:?}");
        put("more/plain", "x");
        gone("more/five");
        let (fourth, troubles) = rotated(service, &third);
        assert_eq!(shown(&fourth), shown(&third));
        assert!(troubles[1].value.to_string().starts_with("`plain` in the folder of secrets "), "{troubles:?}");
        assert!(!format!("{:?}", (first, &service)).contains("\"1\""));
        assert!(Path::new(&folder).is_dir());
        let _ = fs::remove_dir_all(&folder);
    }
}
