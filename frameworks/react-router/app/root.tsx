import { isRouteErrorResponse, Links, Meta, Outlet, Scripts, ScrollRestoration } from 'react-router'
import type { Route } from './+types/root'
import { sessions } from './sessions.server.ts'

export const middleware: Route.MiddlewareFunction[] = [sessions]

/** Without a loader, navigations in the browser would not ask the server. */
export const loader = () => null

export const Layout = ({ children }: { readonly children: React.ReactNode }) => (
  <html lang="en">
    <head>
      <meta charSet="utf-8" />
      <link rel="icon" href="data:," />
      <Meta />
      <Links />
    </head>
    <body>
      {children}
      <ScrollRestoration />
      <Scripts />
    </body>
  </html>
)

export default function Root() {
  return <Outlet />
}

export const ErrorBoundary = ({ error }: Route.ErrorBoundaryProps) => (
  <p id="error">{isRouteErrorResponse(error) ? `${error.status} ${error.data}` : 'An error.'}</p>
)
