import { type MiddlewareFunction, Outlet } from 'react-router'

// The server of the cases makes the adapter for each case.
export const middleware: MiddlewareFunction<Response>[] = [
  (args, next) => globalThis.application.middleware(args, next),
]

export default function Root() {
  return <Outlet />
}
