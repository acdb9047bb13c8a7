//! HTTP requests in an instance: `wasi:http/handler@0.3` and `wasi:http/incoming-handler@0.2`.

use super::{
    Body, CallContext,
    desk::{Desk, Streaming},
    exports::InstanceHttp,
    state::State,
};
use crate::policy::{Fault, FaultKind};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Request, Response,
    body::{Frame, SizeHint},
};
use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};
use tokio::sync::oneshot;
use wasmtime::{
    AsContextMut,
    component::{Accessor, Resource, TypedFuncCallConcurrent},
};
use wasmtime_wasi_http::{
    Error, FieldMap, WasiBody, WasiHttpView,
    p2::{self, bindings::http::types::Scheme},
    p3,
};

/// How much of a handler's error code goes into a fault.
const LONGEST_ERROR: usize = 500;

/// Why a body has no end.
const BROKEN_OFF: &str = "the instance ended before the answer that it wrote";

type Outcome = wasmtime::Result<Result<Response<Body>, Fault>>;

/// Lets the instance handle `request`.
///
/// The outer error is a trap, the end of the store; the inner one is a fault of this call alone.
pub(super) async fn handle(
    accessor: &Accessor<State>,
    handler: &InstanceHttp,
    desk: &Arc<Desk>,
    context: CallContext,
    request: Request<Body>,
) -> Outcome {
    match handler {
        InstanceHttp::P3(service) => handle_p3(accessor, service, desk, context, request).await,
        InstanceHttp::P2(proxy) => handle_p2(accessor, proxy, desk, context, request).await,
    }
}

async fn handle_p3(
    accessor: &Accessor<State>,
    service: &p3::bindings::Service,
    desk: &Arc<Desk>,
    context: CallContext,
    request: Request<Body>,
) -> Outcome {
    let function = service.wasi_http_handler().func_handle();
    let (call, sent) = accessor.with(|mut access| {
        let mut store = access.as_context_mut();
        let view = store.data_mut().http();
        let (parts, body) = request.into_parts();
        let headers = FieldMap::new_immutable(view.hooks, parts.headers);
        let uri = parts.uri.into_parts();
        let (request, sent) = p3::Request::new(
            parts.method,
            uri.scheme,
            uri.authority,
            uri.path_and_query,
            headers,
            None,
            body.map_err(|error| Error::InternalError(Some(error.to_string()))),
        );
        let request = view.table.push(request)?;
        let call = function.start_call_concurrent(&mut store, (request,))?;
        store.data_mut().calls.insert(call.task(), context);
        wasmtime::error::Ok((call, sent))
    })?;
    let task = call.task();
    let ended = function.finish_call_concurrent(accessor, call).await;
    accessor.with(|mut access| access.data_mut().calls.remove(task));
    let (answer,) = ended?;
    let response = match answer {
        Ok(response) => accessor.with(|mut access| {
            let response = access.data_mut().table.delete(response)?;
            response.into_http_with_getter(&mut access, sent, State::http)
        })?,
        Err(code) => return Ok(Err(handler_error(&code))),
    };
    let (parts, body) = response.into_parts();
    Ok(Ok(Response::from_parts(parts, at_once(body, desk).await)))
}

/// A body from wasmtime's side, complete where it is there already: one that the guest did not write itself, such as
/// those of `wharf:http/messages`.
async fn at_once(mut body: WasiBody, desk: &Arc<Desk>) -> Body {
    use hyper::body::Body as _;
    if body.is_end_stream() {
        return Body::empty();
    }
    let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
    match first {
        Poll::Pending => from_wasi(body, desk),
        Poll::Ready(None) => Body::empty(),
        Poll::Ready(Some(Ok(frame))) if body.is_end_stream() && frame.is_data() => {
            Body::complete(frame.into_data().unwrap_or_default())
        }
        Poll::Ready(Some(frame)) => Body::begun(VecDeque::from([frame.map_err(Into::into)]), from_wasi(body, desk)),
    }
}

async fn handle_p2(
    accessor: &Accessor<State>,
    proxy: &p2::bindings::Proxy,
    desk: &Arc<Desk>,
    context: CallContext,
    request: Request<Body>,
) -> Outcome {
    // The guest may go on after it has set its response (it writes the body then), so the response comes by a channel
    // of its own and not with the end of the call.
    let (sender, response) = oneshot::channel();
    let sender = Mutex::new(Some(sender));
    let (call, task) = accessor.with(|mut access| {
        let mut store = access.as_context_mut();
        let mut view = store.data_mut().http();
        let request = view.new_incoming_request(Scheme::Http, request.map(into_wasi))?;
        let out = view.new_response_outparam_from_callback(move |response| {
            if let Some(sender) = sender.lock().unwrap_or_else(PoisonError::into_inner).take() {
                // Nobody waits any more.
                let _ = sender.send(response);
            }
        })?;
        let call = start_p2(&mut store, proxy, request, out)?;
        let task = call.task();
        store.data_mut().calls.insert(task, context);
        wasmtime::error::Ok((call, task))
    })?;
    let function = proxy.wasi_http_incoming_handler().func_handle();
    let ended = std::pin::pin!(function.finish_call_concurrent(accessor, call));
    let ended = futures::future::select(ended, response).await;
    let answer = match ended {
        futures::future::Either::Left((ended, mut response)) => {
            ended?;
            response.try_recv().ok()
        }
        // NB: nothing awaits the call any more; wasmtime goes on with it as long as the store runs.
        futures::future::Either::Right((response, _)) => response.ok(),
    };
    accessor.with(|mut access| access.data_mut().calls.remove(task));
    Ok(match answer {
        Some(Ok(response)) => Ok(response.map(|body| from_wasi(body, desk))),
        Some(Err(code)) => Err(handler_error(&code)),
        None => Err(Fault::new(FaultKind::Trapped, "the handler ended without a response")),
    })
}

type StartedP2 = TypedFuncCallConcurrent<
    State,
    (Resource<p2::types::HostIncomingRequest>, Resource<p2::types::HostResponseOutparam>),
    (),
>;

fn start_p2(
    store: impl AsContextMut<Data = State>,
    proxy: &p2::bindings::Proxy,
    request: Resource<p2::types::HostIncomingRequest>,
    out: Resource<p2::types::HostResponseOutparam>,
) -> wasmtime::Result<StartedP2> {
    proxy.wasi_http_incoming_handler().func_handle().start_call_concurrent(store, (request, out))
}

fn handler_error(code: &impl std::fmt::Debug) -> Fault {
    let mut code = format!("{code:?}");
    // The text in it is the guest's.
    if code.len() > LONGEST_ERROR {
        code.truncate(code.floor_char_boundary(LONGEST_ERROR));
        code.push('…');
    }
    Fault::new(FaultKind::Trapped, format!("the handler answered with the error {code} in place of a response"))
}

/// A body for wasmtime's side.
pub(crate) fn into_wasi(body: Body) -> WasiBody {
    body.map_err(|error| Error::InternalError(Some(error.to_string()))).boxed_unsync()
}

/// A body from wasmtime's side, of a guest that `desk` keeps going until the body is at its end.
fn from_wasi(body: WasiBody, desk: &Arc<Desk>) -> Body {
    if hyper::body::Body::is_end_stream(&body) {
        return Body::empty();
    }
    Body::stream(GuestBody { body, ended: false, streaming: Some(desk.stream()) })
}

struct GuestBody {
    body: WasiBody,
    ended: bool,
    streaming: Option<Streaming>,
}

impl hyper::body::Body for GuestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if !self.ended {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            match (&frame, &self.streaming) {
                (Some(Ok(_)), Some(streaming)) => streaming.frame(),
                (Some(Ok(_)), None) => {}
                (Some(Err(_)), _) => self.streaming = None,
                (None, _) => self.ended = true,
            }
            if frame.is_some() {
                return Poll::Ready(frame);
            }
        }
        let Some(streaming) = &self.streaming else { return Poll::Ready(None) };
        let is_whole = ready!(streaming.poll_is_whole(cx));
        self.streaming = None;
        if is_whole { Poll::Ready(None) } else { Poll::Ready(Some(Err(Error::InternalError(Some(BROKEN_OFF.into()))))) }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.streaming.as_ref().is_none_or(Streaming::is_whole)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
