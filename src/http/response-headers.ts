/**
 * What every response carries: it is for its caller only, it is not a page, and it says which request
 * it belongs to.
 */
export function commonHeaders(
  requestId: string,
  contentType: string,
  cacheControl: string,
): Record<string, string> {
  return {
    'content-type': contentType,
    'cache-control': cacheControl,
    'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
    'x-content-type-options': 'nosniff',
    'x-request-id': requestId,
  };
}
