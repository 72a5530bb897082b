import { ILayoutRestorer, type JupyterFrontEnd, type JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { ITranslator } from '@jupyterlab/translation';
import {
  CommandToolbarButton,
  PanelWithToolbar,
  refreshIcon,
  ToolbarButton
} from '@jupyterlab/ui-components';
import { shieldIcon } from '../icons';
import { CommandIDs, DOMAIN, ISandboxes } from '../model/tokens';
import { SandboxList } from './panel';

/** The side panel with all sandboxes. */
export const panel: JupyterFrontEndPlugin<void> = {
  id: 'hyper-kernel:panel',
  description: 'A side panel with all sandboxes.',
  autoStart: true,
  requires: [ISandboxes, ITranslator],
  optional: [ICommandPalette, ILayoutRestorer],
  activate: (
    app: JupyterFrontEnd,
    model: ISandboxes,
    translator: ITranslator,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null
  ) => {
    const trans = translator.load(DOMAIN);
    const widget = new PanelWithToolbar();
    widget.id = 'hyper-kernel-panel';
    widget.addClass('hyper-Panel');
    widget.title.icon = shieldIcon;
    widget.title.caption = trans.__('Sandboxes');
    widget.node.setAttribute('role', 'region');
    widget.node.setAttribute('aria-label', trans.__('Sandboxes'));
    widget.toolbar.addItem(
      'new',
      new CommandToolbarButton({
        commands: app.commands,
        id: CommandIDs.create,
        label: trans.__('New sandbox…')
      })
    );
    widget.toolbar.addItem(
      'refresh',
      new ToolbarButton({
        icon: refreshIcon,
        tooltip: trans.__('Refresh'),
        onClick: () => void model.refresh()
      })
    );
    widget.addWidget(new SandboxList(model, app.commands, trans));
    app.commands.addCommand(CommandIDs.showPanel, {
      label: trans.__('Show Sandboxes'),
      icon: shieldIcon,
      execute: () => app.shell.activateById(widget.id)
    });
    palette?.addItem({ command: CommandIDs.showPanel, category: trans.__('Sandbox') });
    app.shell.add(widget, 'left', { rank: 250, type: 'Sandboxes' });
    restorer?.add(widget, widget.id);
  }
};
