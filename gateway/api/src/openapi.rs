//! The OpenAPI 3.1 document, generated from the handlers and checked in as `openapi.json`.

use basalt_wire::rest::Problem;
use std::collections::BTreeMap;
use utoipa::{
    IntoResponses, PartialSchema, ToSchema,
    openapi::{
        ContentBuilder, Info, OpenApi, OpenApiBuilder, RefOr, Response, ResponseBuilder, Server,
        path::Operation,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

/// What every route may answer instead: one problem, in RFC 9457's form.
pub struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let content = ContentBuilder::new()
            .schema(Some(RefOr::Ref(utoipa::openapi::Ref::from_schema_name(Problem::name()))));
        let response = ResponseBuilder::new()
            .description("Refused: the problem names each field or reason, and the remedy")
            .content("application/problem+json", content.build())
            .build();
        [("default".to_owned(), RefOr::T(response))].into()
    }
}

const ABOUT: &str = "Basalt keeps declared virtual machines running. Writes record intent and answer 202 with a task; \
    reads show intent and what was seen. Errors are RFC 9457 problems. `{project}`, `{vm}` … accept an id or a name.";

/// The document of both doors.
pub fn document() -> OpenApi {
    let info =
        Info::builder().title("Basalt").version(env!("CARGO_PKG_VERSION")).description(Some(ABOUT)).build();
    let empty = OpenApiBuilder::new().info(info).build();
    let (_, mut document) = crate::routes::all(empty).split_for_parts();
    let components = document.components.get_or_insert_with(Default::default);
    components.schemas.insert(Problem::name().into_owned(), Problem::schema());
    let mut more = Vec::new();
    Problem::schemas(&mut more);
    components.schemas.extend(more);
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("From POST /v1/login or a service token"))
        .build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    for (path, item) in &mut document.paths.paths {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        for (method, operation) in ["GET", "PUT", "POST", "DELETE"].into_iter().zip(operations) {
            if let Some(operation) = operation {
                describe(method, path, operation);
            }
        }
    }
    document
}

/// Adds what the authorisation table knows: which credential, which door.
fn describe(method: &str, path: &str, operation: &mut Operation) {
    use crate::authorization::{RULES, Who};
    let Some(rule) = RULES.iter().find(|r| r.method == method && r.path == path) else { return };
    if let Who::Caller | Who::Role(..) = rule.who {
        operation.security = Some(vec![SecurityRequirement::new("bearer", Vec::<String>::new())]);
    }
    if let Who::Agent | Who::ImageService | Who::JoinToken = rule.who {
        operation.servers = Some(vec![Server::new("https://gateway:9444")]);
    }
}

/// The document as it is checked in.
pub fn document_text() -> String {
    let mut text = serde_json::to_string_pretty(&document()).unwrap_or_default();
    text.push('\n');
    text
}
