//! Generated from `wit/`: the platform as the component model sees it.
//!
//! Imports are generated once, here, and the services' own bindings refer to them, so that a `fault` is one type
//! wherever it comes from. Each export has a world of its own: a service exports what it has and nothing more, and
//! what a service does not use leaves no trace in its component.
#![allow(missing_docs, clippy::all)]

wit_bindgen::generate!({
    path: [
        "../../wit/deps/clocks",
        "../../wit/deps/random",
        "../../wit/deps/filesystem",
        "../../wit/deps/sockets",
        "../../wit/deps/cli",
        "../../wit/deps/http",
        "../../wit/deps/config",
        "../../wit/deps/keyvalue",
        "../../wit/wharf/platform",
        "../../wit/wharf/http",
        "../../wit/wharf/messaging",
        "../../wit/wharf/store",
        "../../wit/wharf/outbox",
        "../../wit/wharf/mail",
        "../../wit/wharf/saga",
    ],
    inline: "
        package wharf:sdk;
        world platform {
            import wasi:http/types@0.3.0;
            import wasi:http/client@0.3.0;
            import wasi:random/random@0.3.0;
            import wasi:config/store@0.2.0-rc.1;
            import wasi:keyvalue/store@0.2.0-draft;
            import wasi:keyvalue/atomics@0.2.0-draft;
            import wasi:keyvalue/batch@0.2.0-draft;
            import wharf:platform/faults@0.1.0;
            import wharf:http/messages@0.1.0;
            import wharf:messaging/types@0.1.0;
            import wharf:messaging/publisher@0.1.0;
            import wharf:store/sql@0.1.0;
            import wharf:outbox/outbox@0.1.0;
            import wharf:mail/mailer@0.1.0;
            import wharf:saga/types@0.1.0;
            import wharf:saga/sagas@0.1.0;
        }
    ",
    world: "wharf:sdk/platform",
    type_section_suffix: "platform",
    additional_derives: [Clone, PartialEq],
    generate_unused_types: true,
    generate_all,
});

/// `wasi:http/handler`, which a service with routes exports.
pub mod http {
    wit_bindgen::generate!({
        path: [
            "../../wit/deps/clocks",
            "../../wit/deps/random",
            "../../wit/deps/filesystem",
            "../../wit/deps/sockets",
            "../../wit/deps/cli",
            "../../wit/deps/http",
        ],
        inline: "
            package wharf:sdk-http;
            world http { export wasi:http/handler@0.3.0; }
        ",
        world: "wharf:sdk-http/http",
        type_section_suffix: "http",
        with: {
            "wasi:clocks/types@0.3.0": crate::bindings::wasi::clocks::types,
            "wasi:http/types@0.3.0": crate::bindings::wasi::http::types,
        },
        pub_export_macro: true,
        export_macro_name: "export_http",
    });
}

/// `wharf:messaging/handler`, which a service with subscriptions exports.
pub mod events {
    wit_bindgen::generate!({
        path: ["../../wit/wharf/platform", "../../wit/wharf/messaging"],
        inline: "
            package wharf:sdk-events;
            world events { export wharf:messaging/handler@0.1.0; }
        ",
        world: "wharf:sdk-events/events",
        type_section_suffix: "events",
        with: { "wharf:messaging/types@0.1.0": crate::bindings::wharf::messaging::types },
        pub_export_macro: true,
        export_macro_name: "export_events",
    });
}

/// `wharf:saga/steps`, which a service with sagas exports.
pub mod sagas {
    wit_bindgen::generate!({
        path: ["../../wit/wharf/platform", "../../wit/wharf/messaging", "../../wit/wharf/saga"],
        inline: "
            package wharf:sdk-sagas;
            world sagas { export wharf:saga/steps@0.1.0; }
        ",
        world: "wharf:sdk-sagas/sagas",
        type_section_suffix: "sagas",
        with: {
            "wharf:messaging/types@0.1.0": crate::bindings::wharf::messaging::types,
            "wharf:saga/types@0.1.0": crate::bindings::wharf::saga::types,
        },
        pub_export_macro: true,
        export_macro_name: "export_sagas",
    });
}

/// `wharf:store/migrations`, which a service with a database exports.
pub mod migrations {
    wit_bindgen::generate!({
        path: ["../../wit/wharf/store"],
        inline: "
            package wharf:sdk-migrations;
            world migrations { export wharf:store/migrations@0.1.0; }
        ",
        world: "wharf:sdk-migrations/migrations",
        type_section_suffix: "migrations",
        pub_export_macro: true,
        export_macro_name: "export_migrations",
    });
}

/// `wharf:platform/health`, which a service exports that wants to be asked whether it is ready.
pub mod health {
    wit_bindgen::generate!({
        path: ["../../wit/wharf/platform"],
        inline: "
            package wharf:sdk-health;
            world health { export wharf:platform/health@0.1.0; }
        ",
        world: "wharf:sdk-health/health",
        type_section_suffix: "health",
        pub_export_macro: true,
        export_macro_name: "export_health",
    });
}
