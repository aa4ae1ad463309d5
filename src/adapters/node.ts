// Exports the adapter for node:http, Connect, polka and HTTP/2.

export {
  forNode,
  type Next,
  type NodeAdapterOptions,
  type NodeMiddleware,
  type NodeServerResponse,
} from './node/adapter.ts'
