// Whether this is a Cloudflare Worker, which has no files and stops a timer when the request that started it ends.

export const IS_CLOUDFLARE_WORKER = globalThis.navigator?.userAgent === 'Cloudflare-Workers'
