/** A type of error that callers can act on: one for each `code`, listed at /docs/problems. */
export type ProblemKind = Readonly<{
  /** snake_case. Never changes. */
  code: string;
  status: number;
  title: string;
  /** What a caller should do about it, for the documentation. */
  advice: string;
}>;

/** What can go wrong with any request, before or outside the rules of a route. */
export const problemKinds = {
  malformedRequest: {
    code: 'malformed_request',
    status: 400,
    title: 'Malformed request',
    advice:
      'The request is not valid HTTP/1.1, or its address is not a valid one. Correct it and ' +
      'send it again.',
  },
  malformedJson: {
    code: 'malformed_json',
    status: 400,
    title: 'Malformed JSON',
    advice: 'The body is empty, is not UTF-8 or is not JSON. Send one JSON object.',
  },
  invalidRequest: {
    code: 'invalid_request',
    status: 400,
    title: 'Invalid request',
    advice:
      'Each entry of `errors` names a field and the rule that it breaks. Correct all of them.',
  },
  headerNotHonoured: {
    code: 'header_not_honoured',
    status: 400,
    title: 'Header not honoured',
    advice:
      'The command does not support the header Idempotency-Key, If-Match or If-None-Match that ' +
      'was sent with it. Nothing was done. Leave the header out. The API documentation lists ' +
      'the headers of each command.',
  },
  crossOrigin: {
    code: 'cross_origin',
    status: 403,
    title: 'Request from another origin',
    advice:
      'A browser sent this command from a page of another origin. Nothing was done. Send ' +
      'commands from the origin of this service, or send a JSON body with the content type ' +
      'application/json, even if it is an empty object.',
  },
  routeNotFound: {
    code: 'route_not_found',
    status: 404,
    title: 'No such address',
    advice: 'There is nothing at this path. /openapi.json lists all paths.',
  },
  methodNotAllowed: {
    code: 'method_not_allowed',
    status: 405,
    title: 'Method not allowed',
    advice:
      'This path does not support the method. The Allow header lists the methods that it supports.',
  },
  requestTimeout: {
    code: 'request_timeout',
    status: 408,
    title: 'Request took too long to arrive',
    advice: 'Send the whole request within the time limit. Open a new connection to send it again.',
  },
  bodyTooLarge: {
    code: 'body_too_large',
    status: 413,
    title: 'Body too large',
    advice: 'The body is larger than the limit. Send a smaller one.',
  },
  uriTooLong: {
    code: 'uri_too_long',
    status: 414,
    title: 'Address too long',
    advice: 'A part of the path is longer than any valid identifier. Shorten it.',
  },
  unsupportedMediaType: {
    code: 'unsupported_media_type',
    status: 415,
    title: 'Unsupported media type',
    advice: 'Send the body as application/json in UTF-8, without a content encoding.',
  },
  idempotencyKeyInUse: {
    code: 'idempotency_key_in_use',
    status: 409,
    title: 'Idempotency-Key in use',
    advice:
      'Another request with this key is still being processed. Retry after the number of ' +
      'seconds in Retry-After.',
  },
  idempotencyKeyReused: {
    code: 'idempotency_key_reused',
    status: 422,
    title: 'Idempotency-Key used for another request',
    advice:
      'A key belongs to one request for 72 hours, and this request differs from the first one. ' +
      'Use a new key for a new request.',
  },
  preconditionFailed: {
    code: 'precondition_failed',
    status: 412,
    title: 'Precondition failed',
    advice:
      'If-Match or If-None-Match does not hold, because the resource has changed. Nothing was ' +
      'done. Read the resource again, decide again, and send its new ETag.',
  },
  ifMatchWeak: {
    code: 'if_match_weak',
    status: 412,
    title: 'If-Match names a weak tag',
    advice:
      'If-Match never matches a weak tag (W/). Nothing was done. This service sends strong tags ' +
      'only, so a proxy has weakened the tag, usually by compressing the response. Send the tag ' +
      'without the W/, or configure the proxy to leave responses unchanged.',
  },
  preconditionRequired: {
    code: 'precondition_required',
    status: 428,
    title: 'Precondition required',
    advice:
      'This command needs If-Match. Nothing was done. Read the resource, decide, and send the ' +
      'ETag that you read.',
  },
  expectationFailed: {
    code: 'expectation_failed',
    status: 417,
    title: 'Expectation not met',
    advice: 'Send the request without the Expect header, or with 100-continue.',
  },
  headersTooLarge: {
    code: 'headers_too_large',
    status: 431,
    title: 'Header fields too large',
    advice: 'Send fewer or shorter headers.',
  },
  notImplemented: {
    code: 'not_implemented',
    status: 501,
    title: 'Not implemented',
    advice:
      'The server does not support this: it is not a proxy (CONNECT), and chunked is the only ' +
      'transfer coding that it knows. Send the request without it.',
  },
  overloaded: {
    code: 'overloaded',
    status: 503,
    title: 'Overloaded',
    advice:
      'The service has too much to do at the moment. Nothing was written. Retry after the ' +
      'number of seconds in Retry-After.',
  },
  internal: {
    code: 'internal',
    status: 500,
    title: 'Internal error',
    advice:
      'The service has a fault. Its log has the details under the requestId. The request may ' +
      'have taken effect: retry it with the same Idempotency-Key.',
  },
} as const satisfies Record<string, ProblemKind>;
